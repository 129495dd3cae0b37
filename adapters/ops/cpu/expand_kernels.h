#pragma once

#include <cstdint>

namespace lorad::cpu {

// What an update has beside its pair, by column; each may be absent.
struct ExpandColumnTerms {
  const float* delta_bias = nullptr;  // [columns]
  const float* factor = nullptr;      // [columns]
  const float* bias = nullptr;        // [columns]
  bool any() const { return delta_bias != nullptr || factor != nullptr || bias != nullptr; }
};

// y[r, c] = T(factor[c] * (y[r, c] + scale * (sum_j h[r, j] b_t[j, c] + delta_bias[c])) + bias[c])
// on one thread; strides in elements, bf16 is uint16_t. j ascending in one f32 sum, so that a result is the same bits
// however rows and columns are cut.
struct ExpandArgs {
  const float* h;  // [rows, rank]
  int64_t h_stride;
  int64_t rows;
  int64_t rank;
  int64_t b_stride;
  int64_t columns;
  int64_t y_stride;
  float scale;
  ExpandColumnTerms terms = {};
};
void Expand(const ExpandArgs& args, const float* b_t, float* y);
void Expand(const ExpandArgs& args, const uint16_t* b_t, uint16_t* y);

}  // namespace lorad::cpu
