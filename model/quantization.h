#pragma once

#include <cstdint>
#include <string_view>

#include "model/sites.h"

namespace lorad {

// How the base's matrices (IsQuantized) are kept: as numbers of the model's dtype, or as small integers q with factors.
// Activations, sums and adapters are what they are without.
//
//   int8   W' = s q         s = max|W| / 127 in f32, q = round(W / s)
//   int4   W' = s q + z     s = bf16((max W - min W) / 15), z = bf16(min W + 8 s), q = round((W - z) / s) in -8 .. 7
//
// of each group of kQuantizedGroup inputs of one output row (the last may be shorter), rounded half to even: 8.5
// and 4.5 bits a weight. W is the checkpoint's, whatever the model's dtype. The kernels multiply q exactly and put the
// factors on a group's sum: what is computed is W' x with nothing rounded in between. Source   int8 as llama.cpp's
// Q8_0; int4 as gpt-fast and LibTorch's _weight_int4pack_mm, groups of 64.
enum class Quantization : uint8_t { kNone, kInt8, kInt4 };

std::string_view Name(Quantization quantization);  // "none", "int8", "int4"

// Whether a quantised base keeps this site's weight so: attention's and the FFN's matrices, those of routed and shared
// experts too. Embeddings, the head, routers, gates of a shared expert and projections of embeddings stay: they are few
// or few are read in a step, and errors in them weigh most.
bool IsQuantized(Site site);

inline constexpr int64_t kQuantizedGroup = 64;
constexpr int64_t QuantizedGroups(int64_t in) { return (in + kQuantizedGroup - 1) / kQuantizedGroup; }

struct GroupFactors {
  float scale = 0.0f;
  float zero = 0.0f;  // 0 of int8
};

// w [n] of one group -> q [n]. A group with a number that is not finite gets factors that are none.
GroupFactors QuantizeGroup(Quantization quantization, const float* w, int64_t n, int8_t* q);

// w [rows, in]: W becomes W'.
void RoundToQuantized(Quantization quantization, int64_t rows, int64_t in, float* w);

}  // namespace lorad
