#pragma once

#include <cstdint>

namespace lorad::cpu {

// Matrix products of rows with row-major weights on one thread; raw pointers, strides in elements. bf16 is uint16_t.
//
// Rows are packed before they are multiplied, tile by tile. What lies in a packed tile is the kernels' business: f32 in
// the order in which they read the elements of T, or bf16 where the processor multiplies it (bf16_products.h). Every
// sum runs over the elements in one order that depends on the row's length alone, so that a result is the same bits
// however the rows and columns around it are cut.
inline constexpr int64_t kRowsPerTile = 6;
constexpr int64_t RowTiles(int64_t rows) { return (rows + kRowsPerTile - 1) / kRowsPerTile; }
constexpr int64_t FirstRowOfTile(int64_t rows, int64_t tile) { return rows * tile / RowTiles(rows); }
int64_t PackedFloats(int64_t elements);  // that a packed row takes at most
// Tiles [begin_tile, end_tile) of x [rows, elements] into `packed` [rows, packed_stride].
void PackTiles(const float* x, int64_t x_stride, int64_t rows, int64_t elements, int64_t begin_tile, int64_t end_tile,
               float* packed, int64_t packed_stride);
void PackTiles(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t elements, int64_t begin_tile,
               int64_t end_tile, float* packed, int64_t packed_stride);
// Whether Dot may read the rows where they are, with their own stride: packing would change nothing.
bool IsPacked(const float* x, int64_t rows, int64_t elements);
bool IsPacked(const uint16_t* x, int64_t rows, int64_t elements);

// y[r, c] = sum_k x[r, k] w[c, k].   x all packed rows; w [columns, in]; y [rows, columns].
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
