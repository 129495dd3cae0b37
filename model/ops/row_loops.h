#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"

namespace lorad::cpu {

// fn(row, first, count) for pieces of all rows [rows, n], shared among threads; a single row is shared too.
template <typename Fn>
void ForEachPieceOfRows(int64_t rows, int64_t n, const Fn& fn) {
  constexpr int64_t kElementsPerRange = 1 << 13;
  const int64_t piece = std::min<int64_t>(n, kElementsPerRange / 2);
  const int64_t pieces = (n + piece - 1) / piece;
  ParallelFor(rows * pieces, std::max<int64_t>(1, kElementsPerRange / piece), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % pieces * piece;
      fn(i / pieces, first, std::min(piece, n - first));
    }
  });
}

// fn(from, to) for every row of x and y [R, n], shared among threads. With a residual, x is first added to it, and
// `from` is the sum.
template <typename T, typename Fn>
void ForEachNormedRow(const at::Tensor& x, at::Tensor* residual, at::Tensor& y, const Fn& fn) {
  const int64_t rows = x.size(0), n = x.size(1);
  const int64_t x_stride = x.stride(0), y_stride = y.stride(0);
  const T* in = static_cast<const T*>(x.const_data_ptr());
  T* out = static_cast<T*>(y.mutable_data_ptr());
  T* sums = residual == nullptr ? nullptr : static_cast<T*>(residual->mutable_data_ptr());
  const int64_t sum_stride = residual == nullptr ? 0 : residual->stride(0);
  ParallelFor(rows, std::max<int64_t>(1, (1 << 14) / n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* from = in + r * x_stride;
      if (sums != nullptr) {
        T* const sum = sums + r * sum_stride;
        AddRow(from, n, sum);
        from = sum;
      }
      fn(from, out + r * y_stride);
    }
  });
}

}  // namespace lorad::cpu
