#pragma once

#include <type_traits>

#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/row_kernels.h"

// Each thread reads and writes the same columns throughout, so that y may lie over what it is made of.
namespace lorad::cuda {

// Adds x to the residual, if there is one; the row that is to be normed.
template <typename T>
__device__ const T* SumRow(const NormedRows<T>& rows, int64_t r) {
  const T* x = rows.x.row(r);
  if (rows.residual.data == nullptr) return x;
  T* sum = rows.residual.row(r);
  for (int64_t i = threadIdx.x; i < rows.width; i += blockDim.x) Put(Widen(x[i]) + Widen(sum[i]), sum + i);
  return sum;
}

// Eights of a row: eights_of_thread of them a thread, those of all threads side by side.
__device__ inline int64_t ColumnOfEight(int n) { return (int64_t{n} * blockDim.x + threadIdx.x) * kEight; }
template <typename T>
__device__ inline bool HasWideRows(const Rows<T>& rows, int64_t width) {
  return width % kEight == 0 && rows.stride % kEight == 0 && IsAligned(rows.data);
}

// Calls fn with a constant for `wide`: one branch around several loads, of which none then waits for another.
template <typename Fn>
__device__ inline void WideOrNot(bool wide, const Fn& fn) {
  if (wide) {
    fn(std::true_type());
  } else {
    fn(std::false_type());
  }
}

// A step of few rows waits for memory: so a thread asks for all of its kEights at once, and holds them to the end.
template <typename T, typename W, int kEights>
__global__ void __launch_bounds__(kMostNormThreads) RmsNormKernel(NormedRows<T> rows, const W* weight, float eps) {
  __shared__ BlockSums block_sums;
  const int64_t r = blockIdx.x;
  const bool adds = rows.residual.data != nullptr;
  const bool wide =
      HasWideRows(rows.x, rows.width) && IsAligned(weight) && (!adds || HasWideRows(rows.residual, rows.width));
  float values[kEights][kEight] = {}, weights[kEights][kEight] = {}, residual[kEights][kEight] = {};
  WideOrNot(wide, [&](auto is_wide) {
    constexpr bool kWide = decltype(is_wide)::value;
    for (int n = 0; n < kEights; ++n) {
      const int64_t i = ColumnOfEight(n), left = rows.width - i;
      if (left <= 0) continue;
      LoadUpTo<kEight>(kWide, rows.x.row(r) + i, left, values[n]);
      LoadUpTo<kEight>(kWide, weight + i, left, weights[n]);
      if (adds) LoadUpTo<kEight>(kWide, rows.residual.row(r) + i, left, residual[n]);
    }
  });
  float squares = 0.0f;
  for (int n = 0; n < kEights; ++n) {
    const int64_t i = ColumnOfEight(n), left = rows.width - i;
    if (adds) {
      for (int k = 0; k < kEight; ++k) values[n][k] = Rounded<T>(values[n][k] + residual[n][k]);
      if (left > 0) StoreUpToEight(values[n], left, rows.residual.row(r) + i);
    }
    for (int k = 0; k < kEight; ++k) squares += values[n][k] * values[n][k];
  }
  const float factor = 1.0f / sqrtf(BlockSum(squares, block_sums) / static_cast<float>(rows.width) + eps);
  for (int n = 0; n < kEights; ++n) {
    const int64_t i = ColumnOfEight(n), left = rows.width - i;
    if (left <= 0) continue;
    for (int k = 0; k < kEight; ++k) values[n][k] = weights[n][k] * Rounded<W>(values[n][k] * factor);
    StoreUpToEight(values[n], left, rows.y.row(r) + i);
  }
}

template <typename T>
__global__ void LayerNormKernel(NormedRows<T> rows, const T* weight, const T* bias, float eps) {
  __shared__ BlockSums sums;
  const int64_t r = blockIdx.x;
  const T* from = SumRow(rows, r);
  T* to = rows.y.row(r);
  const float width = static_cast<float>(rows.width);
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < rows.width; i += blockDim.x) sum += Widen(from[i]);
  const float mean = BlockSum(sum, sums) / width;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < rows.width; i += blockDim.x) {
    const float off = Widen(from[i]) - mean;
    squares += off * off;
  }
  const float factor = 1.0f / sqrtf(BlockSum(squares, sums) / width + eps);
  for (int64_t i = threadIdx.x; i < rows.width; i += blockDim.x) {
    const float w = weight == nullptr ? 1.0f : Widen(weight[i]), b = bias == nullptr ? 0.0f : Widen(bias[i]);
    Put((Widen(from[i]) - mean) * factor * w + b, to + i);
  }
}

// Each keeps a NaN.
__device__ inline float Activated(Activation activation, float v) {
  switch (activation) {
    case Activation::kSilu:
      // Far below, exp overflows: the limit of the quotient is 0, and v / inf is that too.
      return v / (1.0f + expf(-v));
    case Activation::kGeluTanh:
      return 0.5f * v * (1.0f + tanhf(0.7978845608f * (v + 0.044715f * v * v * v)));
    case Activation::kGelu:
      return v * 0.5f * erfcf(-v * 0.70710678f);
    case Activation::kRelu:
      return v < 0.0f ? 0.0f : v;
  }
  return v;
}

// Block (row, n): the n-th eights of its threads.
template <typename T>
__global__ void ActivateKernel(ActivatedRows<T> rows, Activation activation) {
  const int64_t r = blockIdx.x, i = ColumnOfEight(static_cast<int>(blockIdx.y)), left = rows.width - i;
  if (left <= 0) return;
  const bool has_factor = rows.factor.data != nullptr;
  const bool wide = HasWideRows(rows.x, rows.width) && (!has_factor || HasWideRows(rows.factor, rows.width));
  float values[kEight], factors[kEight];
  WideOrNot(wide, [&](auto is_wide) {
    constexpr bool kWide = decltype(is_wide)::value;
    LoadUpTo<kEight>(kWide, rows.x.row(r) + i, left, values);
    if (has_factor) LoadUpTo<kEight>(kWide, rows.factor.row(r) + i, left, factors);
  });
  for (int k = 0; k < kEight; ++k) {
    values[k] = Activated(activation, values[k]);
    if (has_factor) values[k] = Rounded<T>(values[k]) * factors[k];
  }
  StoreUpToEight(values, left, rows.y.row(r) + i);
}

// Block (row, n), as above.
template <typename T>
__global__ void GatherRowsKernel(GatheredRows<T> rows, bool add) {
  const int64_t r = blockIdx.x, i = ColumnOfEight(static_cast<int>(blockIdx.y)), left = rows.width - i;
  if (left <= 0) return;
  const int64_t index = rows.index[r], at = index + rows.offset;
  const bool known = index >= 0 && at < rows.table_rows;
  const bool wide = HasWideRows(rows.table, rows.width) && HasWideRows(rows.y, rows.width);
  T* y = rows.y.row(r) + i;
  float values[kEight], added[kEight] = {};
  for (int k = 0; k < kEight; ++k) values[k] = NotANumber();
  if (known) LoadUpTo<kEight>(wide, rows.table.row(at) + i, left, values);
  if (add) LoadUpTo<kEight>(wide, y, left, added);
  for (int k = 0; k < kEight; ++k) values[k] = add ? values[k] + added[k] : values[k];
  StoreUpToEight(values, left, y);
}

}  // namespace lorad::cuda
