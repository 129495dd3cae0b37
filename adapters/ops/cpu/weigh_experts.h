#pragma once

#include <cstdint>

#include "adapters/slot_table.h"

namespace lorad::cpu {

// Multiplies what each expert of a slot that routes made of a row by its weight there: softmax of the router's logits,
// in f32 (SlotWeights::router). x [rows, in]; h [rows, experts * rank], h_stride floats from row to row. Counts the
// rows that go to each expert, if the slot wants it.
void WeighExperts(const SlotWeights& weights, const float* x, int64_t rows, int64_t in, float* h, int64_t h_stride);

}  // namespace lorad::cpu
