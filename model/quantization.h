#pragma once

#include <cstdint>
#include <string_view>

#include "model/sites.h"

namespace lorad {

// How the base's matrices (IsQuantized) are kept: as numbers of the model's dtype, or as small numbers q with factors.
// Activations, sums and adapters are what they are without.
//
//   int8   W' = s q         s = max|W| / 127 in f32, q = round(W / s)
//   int4   W' = s q + z     s = bf16((max W - min W) / 15), z = bf16(min W + 8 s), q = round((W - z) / s) in -8 .. 7
//   fp8    W' = s q         s = max|W| / 448 in f32, q = e4m3(W / s), saturating (model/e4m3.h)
//
// rounded half to even; int8 and int4 of each group of kQuantizedGroup inputs of one output row (the last may be
// shorter), fp8 of a whole row: 8.5, 4.5 and 8 + 32 / in bits a weight. Where s is 0, q is. W is the checkpoint's,
// whatever the model's dtype. The kernels multiply q exactly and put the factors on a group's sum: what is computed is
// W' x with nothing rounded in between. Source   int8 as llama.cpp's Q8_0; int4 as gpt-fast and LibTorch's
// _weight_int4pack_mm, groups of 64; fp8 as compressed-tensors' float-quantized weights with a scale a channel.
enum class Quantization : uint8_t { kNone, kInt8, kInt4, kFp8 };
inline constexpr Quantization kQuantizedForms[] = {Quantization::kInt8, Quantization::kInt4, Quantization::kFp8};

std::string_view Name(Quantization quantization);  // "none", "int8", "int4", "fp8"

// Whether a quantised base keeps this site's weight so: attention's and the FFN's matrices, those of routed and shared
// experts too. Embeddings, the head, routers, gates of a shared expert and projections of embeddings stay: they are few
// or few are read in a step, and errors in them weigh most.
bool IsQuantized(Site site);

inline constexpr int64_t kQuantizedGroup = 64;
constexpr int64_t QuantizedGroups(int64_t in) { return (in + kQuantizedGroup - 1) / kQuantizedGroup; }

// Inputs of a row that share factors; the last of them may be fewer.
constexpr int64_t InputsOfFactors(Quantization quantization, int64_t in) {
  return quantization == Quantization::kFp8 ? in : kQuantizedGroup;
}

struct GroupFactors {
  float scale = 0.0f;
  float zero = 0.0f;  // 0 but of int4
};

// w [n] that share factors -> codes [n]: q itself, or e4m3's bits. If a number is not finite, neither are the factors.
GroupFactors QuantizeGroup(Quantization quantization, const float* w, int64_t n, int8_t* codes);
float NumberOf(Quantization quantization, int8_t code);  // q

// w [rows, in]: W becomes W'.
void RoundToQuantized(Quantization quantization, int64_t rows, int64_t in, float* w);

}  // namespace lorad
