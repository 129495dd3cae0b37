#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/ops/pieces.h"

namespace lorad {

// multiply(x's rows, y's rows) in pieces that cover all rows; in one where nobody wants to interrupt.
template <typename Multiply>
void InPieces(const at::Tensor& x, at::Tensor& y, const Multiply& multiply) {
  const int64_t rows = x.size(0), products = x.size(1) * y.size(1), piece = CutsPieces() ? PieceRows(products) : rows;
  if (piece >= rows) {
    BeginPiece(rows * products);
    return multiply(x, y);
  }
  for (int64_t first = 0; first < rows; first += piece) {
    const int64_t count = std::min(piece, rows - first);
    at::Tensor y_rows = y.narrow(0, first, count);
    BeginPiece(count * products);
    multiply(x.narrow(0, first, count), y_rows);
  }
}

}  // namespace lorad
