#pragma once

#include <cstdint>

namespace lorad::cpu {

// Matrix products of rows with row-major weights on one thread; raw pointers, strides in elements. bf16 is uint16_t.
//
// A packed row is f32, in the order in which the kernels read the elements of T, padded with zeros to PackedFloats.
// Every sum runs over the elements in one order that depends on the row's length alone, so that a result is the same
// bits however the rows and columns around it are cut into tiles.
int64_t PackedFloats(int64_t elements);
void PackRows(const float* x, int64_t x_stride, int64_t rows, int64_t elements, float* packed, int64_t packed_stride);
void PackRows(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t elements, float* packed,
              int64_t packed_stride);

// y[r, c] = sum_k x[r, k] w[c, k].   x packed [rows, PackedFloats(in)]; w [columns, in]; y [rows, columns].
struct DotArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t w_stride;
  int64_t columns;
  int64_t in;
  int64_t y_stride;
};
void Dot(const DotArgs& args, const float* w, float* y);
void Dot(const DotArgs& args, const uint16_t* w, float* y);     // sums as they are
void Dot(const DotArgs& args, const uint16_t* w, uint16_t* y);  // rounded

}  // namespace lorad::cpu
