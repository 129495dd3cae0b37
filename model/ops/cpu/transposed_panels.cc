#include "model/ops/cpu/transposed_panels.h"

#include <algorithm>

#include "model/ops/cpu/bf16_products.h"
#include "model/ops/cpu/panel_kernels.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kBlockWords = kPanelColumns / 2;    // of the 16 inputs or 16 outputs of a block
constexpr int64_t kWordElements = 2 * kPanelColumns;  // of a panel: a word of each column
constexpr int64_t kPanelsAhead = 4;                   // how far weights are fetched before they are read

// 16 inputs by 16 outputs: `from` words of a panel of W become `to` words of one of W^T, kBlockWords each or fewer.
using TransposeBlockFn = void (*)(const uint16_t* w, int64_t from, int64_t to, uint16_t* transposed);

void TransposeBlock(const uint16_t* w, int64_t from, int64_t to, uint16_t* transposed) {
  std::fill_n(transposed, to * kWordElements, uint16_t{0});
  for (int64_t input = 0; input < 2 * from; ++input) {
    for (int64_t output = 0; output < 2 * to; ++output) {
      transposed[output / 2 * kWordElements + input * 2 + output % 2] =
          w[input / 2 * kWordElements + output * 2 + input % 2];
    }
  }
}

}  // namespace
}  // namespace lorad::cpu

#if defined(__x86_64__)

#include <immintrin.h>

// Behind the includes, so that nothing shared with other sources is compiled for these processors alone.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw")

namespace lorad::cpu {
namespace {

void TransposeBlockAvx512(const uint16_t* w, int64_t from, int64_t to, uint16_t* transposed) {
  // Of two outputs a, b a word has a0 a1 b0 b1, the inputs 0 and 1: a0 b0 a1 b1 are a word of each input.
  const __m512i pairs = _mm512_set4_epi32(0x0F0E0B0A, 0x0D0C0908, 0x07060302, 0x05040100);
  __m512i v[kBlockWords];
  for (int64_t i = 0; i < kBlockWords; ++i) {
    v[i] = i < from ? _mm512_shuffle_epi8(_mm512_loadu_si512(w + i * kWordElements), pairs) : _mm512_setzero_si512();
  }
  // What is left is the transposition of 8 x 8 numbers of 64 bits: first within 128 bits, then of 4 x 4 of those.
  __m512i even[4], odd[4];
  for (int i = 0; i < 4; ++i) {
    even[i] = _mm512_unpacklo_epi64(v[2 * i], v[2 * i + 1]);
    odd[i] = _mm512_unpackhi_epi64(v[2 * i], v[2 * i + 1]);
  }
  constexpr int kLanes02 = 0x88, kLanes13 = 0xDD;
  __m512i out[kBlockWords];
  const auto transpose = [&](const __m512i(&lanes)[4], int first) {
    const __m512i a = _mm512_shuffle_i64x2(lanes[0], lanes[1], kLanes02);
    const __m512i b = _mm512_shuffle_i64x2(lanes[0], lanes[1], kLanes13);
    const __m512i c = _mm512_shuffle_i64x2(lanes[2], lanes[3], kLanes02);
    const __m512i d = _mm512_shuffle_i64x2(lanes[2], lanes[3], kLanes13);
    out[first] = _mm512_shuffle_i64x2(a, c, kLanes02);
    out[first + 2] = _mm512_shuffle_i64x2(b, d, kLanes02);
    out[first + 4] = _mm512_shuffle_i64x2(a, c, kLanes13);
    out[first + 6] = _mm512_shuffle_i64x2(b, d, kLanes13);
  };
  transpose(even, 0);
  transpose(odd, 1);
  for (int64_t i = 0; i < kBlockWords; ++i) {
    if (i < to) _mm512_storeu_si512(transposed + i * kWordElements, out[i]);
  }
}

TransposeBlockFn BestTransposeBlock() { return HasBf16Products() ? &TransposeBlockAvx512 : &TransposeBlock; }

}  // namespace
}  // namespace lorad::cpu
#pragma GCC pop_options

#else

namespace lorad::cpu {
namespace {
TransposeBlockFn BestTransposeBlock() { return &TransposeBlock; }
}  // namespace
}  // namespace lorad::cpu

#endif

namespace lorad::cpu {

void TransposePanels(const TransposeArgs& a, uint16_t* transposed) {
  const TransposeBlockFn transpose = BestTransposeBlock();
  const int64_t from_words = PanelWords(a.in), to_words = PanelWords(a.outputs), panel = PanelElements(a.in);
  const int64_t first = a.first_input / 2, end = std::min(from_words, first + Panels(a.inputs) * kBlockWords);
  for (int64_t p = 0; p < Panels(a.outputs); ++p) {
    const uint16_t* const w = a.panels + p * panel;
    const int64_t to = std::min(kBlockWords, to_words - p * kBlockWords);
    uint16_t* block = transposed + p * kBlockWords * kWordElements;
    for (int64_t word = first; word < end; word += kBlockWords, block += PanelElements(a.outputs)) {
      const int64_t from = std::min(kBlockWords, end - word);
      for (int64_t i = 0; i < from; ++i) __builtin_prefetch(w + kPanelsAhead * panel + (word + i) * kWordElements);
      transpose(w + word * kWordElements, from, to, block);
    }
  }
}

}  // namespace lorad::cpu
