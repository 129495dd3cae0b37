#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "model/ops/cpu/quantized_panels.h"

// The words of quantised panels as bf16, for bf16_quantized_panels.cc alone: nothing shared with other sources is
// compiled for these processors.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace lorad::cpu {

// GCC 12 takes the forms without a mask for reads of what was not initialised; with this one the code is the same.
inline constexpr __mmask16 kAll16 = 0xFFFF;
inline constexpr __mmask32 kAll32 = 0xFFFFFFFF;

inline __m512 Floats(const __m128i* bytes) {
  return _mm512_maskz_cvtepi32_ps(kAll16, _mm512_maskz_cvtepi8_epi32(kAll16, _mm_loadu_si128(bytes)));
}

// The words of one quad of a panel as bf16, word kWord of it.
struct Int8Words {
  static constexpr Quantization kQuantization = Quantization::kInt8;
  static constexpr int64_t kQuadBytes = QuadBytes(kQuantization);
  template <int kWord>
  static __m512bh Word(const std::byte* quad) {
    const auto* const halves = reinterpret_cast<const __m128i*>(quad) + 2 * kWord;
    return _mm512_cvtne2ps_pbh(Floats(halves + 1), Floats(halves));
  }
};
struct Int4Words {
  static constexpr Quantization kQuantization = Quantization::kInt4;
  static constexpr int64_t kQuadBytes = QuadBytes(kQuantization);
  // The lowest 5 bits of each 16 choose: whatever the fifth is, the four below it say the number.
  static __m512i Numbers() {
    alignas(64) static constexpr uint16_t kNumbers[32] = {
        0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80,   // -8 .. -1
        0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0,   // 0 .. 7
        0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80,   //
        0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0};  //
    return _mm512_load_si512(kNumbers);
  }
  template <int kWord>
  static __m512bh Word(const std::byte* quad) {
    const __m512i nibbles = _mm512_maskz_srli_epi16(kAll32, _mm512_loadu_si512(quad), 4 * kWord);
    return reinterpret_cast<__m512bh>(_mm512_maskz_permutexvar_epi16(kAll32, nibbles, Numbers()));
  }
};
struct Fp8Words {
  static constexpr Quantization kQuantization = Quantization::kFp8;
  static constexpr int64_t kQuadBytes = QuadBytes(kQuantization);
  // 0 .. 7 times 2^-9, which the instruction would take for zeros as denormals of bf16: e4m3 below its normal numbers.
  static __m512i Denormals() {
    alignas(64) static constexpr uint16_t kNumbers[32] = {0x0000, 0x3B00, 0x3B80, 0x3BC0,
                                                          0x3C00, 0x3C20, 0x3C40, 0x3C60};
    return _mm512_load_si512(kNumbers);
  }
  // Exponent and mantissa go where bf16 has them, and 120 onto the exponent.
  template <int kWord>
  static __m512bh Word(const std::byte* quad) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(quad) + kWord);
    const __m512i codes = _mm512_maskz_cvtepi8_epi16(kAll32, bytes);  // the sign in all upper bits
    const __m512i moved = _mm512_and_si512(_mm512_maskz_slli_epi16(kAll32, codes, 4), _mm512_set1_epi16(0x07F0));
    const __m512i normals = _mm512_add_epi16(moved, _mm512_set1_epi16(120 << 7));
    const __mmask32 small = _mm512_testn_epi16_mask(codes, _mm512_set1_epi16(0x78));
    const __m512i sizes = _mm512_mask_permutexvar_epi16(normals, small, codes, Denormals());
    const __m512i signs = _mm512_and_si512(codes, _mm512_set1_epi16(static_cast<int16_t>(0x8000)));
    return reinterpret_cast<__m512bh>(_mm512_or_si512(sizes, signs));
  }
};

}  // namespace lorad::cpu

#pragma GCC pop_options
