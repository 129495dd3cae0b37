#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lorad {

// Some rows and columns of a linear's y that have a pair of their own.
struct PairBlock {
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t first_column = 0;
  int64_t columns = 0;
  at::Tensor a;  // [rank, in]
  at::Tensor b;  // [columns, rank]
  float scale = 1.0f;
};

// All pairs of a linear as one step of the graph, on the compute team:
//
//   y[rows, columns] += scale (x[rows] A^T) B^T   for each block
//
// x [R, in], y [R, out], which is changed in place and returned: f32, on the CPU, as A and B. Blocks of the same rows
// follow one another and have the same first_row; no two overlap. Gradients reach x, y, A and B; a row's, and a block's
// of A and B, depend on nothing outside of it. In pieces (model/ops/pieces.h).
// Errors   thrown by LibTorch: call under Guarded.
at::Tensor AddPairs(const at::Tensor& x, const at::Tensor& y, const std::vector<PairBlock>& blocks);

}  // namespace lorad
