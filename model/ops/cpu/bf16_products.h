#pragma once

#include <cstdint>

namespace lorad::cpu {

// The products of dot_kernels.h by the processor's own bf16 instruction (AVX-512 BF16): 32 products of two bf16 with
// one instruction, summed in f32. Twice the arithmetic of f32, and nothing is widened.
//
// Rows are packed in tiles: 32 elements of each row of a tile, then the next 32, zeros behind the last. Tiles are
// RowTiles(rows) and begin at FirstRowOfTile.

// Whether this processor has the instruction, and nobody forbade it.
bool HasBf16Products();
// For tests and benchmarks, which choose an instruction set: not while anybody computes.
void ForbidBf16Products(bool forbid);

void PackBf16Tiles(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t in, int64_t begin_tile, int64_t end_tile,
                   uint16_t* packed);

struct Bf16DotArgs {
  const uint16_t* x;  // packed
  int64_t rows;
  const uint16_t* w;  // [columns, in]
  int64_t w_stride;   // elements, as below
  int64_t columns;
  int64_t in;
  int64_t y_stride;
};
void DotBf16Products(const Bf16DotArgs& args, float* y);
void DotBf16Products(const Bf16DotArgs& args, uint16_t* y);  // rounded

}  // namespace lorad::cpu
