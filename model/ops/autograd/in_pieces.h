#pragma once

#include <algorithm>
#include <cstdint>

#include "model/ops/pieces.h"

namespace lorad {

// fn(first, count) for pieces of at most `most` that cover `items`, each of which costs `products` multiplications.
template <typename Fn>
void ItemsInPieces(int64_t items, int64_t most, int64_t products, const Fn& fn) {
  for (int64_t first = 0; first < items; first += most) {
    const int64_t count = std::min(most, items - first);
    BeginPiece(count * products);
    fn(first, count);
  }
}

// A part of a matmul: rows [first_row, first_row + rows) by outputs [first_output, first_output + outputs).
struct MatmulPiece {
  int64_t first_row;
  int64_t rows;
  int64_t first_output;
  int64_t outputs;
};

// multiply(piece) for pieces that cover a matmul of x [rows, in] and W [outputs, in]; in one where nobody wants to
// interrupt. All outputs of some rows come before the next rows; `cuts_outputs`: a row's may lie in several.
template <typename Multiply>
void InPieces(int64_t rows, int64_t in, int64_t outputs, bool cuts_outputs, const Multiply& multiply) {
  const int64_t rows_at_once = CutsPieces() ? std::min(rows, PieceRows(in * outputs)) : rows;
  const int64_t outputs_at_once =
      CutsPieces() && cuts_outputs ? std::min(outputs, PieceOutputs(rows_at_once * in)) : outputs;
  for (int64_t row = 0; row < rows; row += rows_at_once) {
    for (int64_t output = 0; output < outputs; output += outputs_at_once) {
      const MatmulPiece piece = {row, std::min(rows_at_once, rows - row), output,
                                 std::min(outputs_at_once, outputs - output)};
      BeginPiece(piece.rows * in * piece.outputs);
      multiply(piece);
    }
  }
}

}  // namespace lorad
