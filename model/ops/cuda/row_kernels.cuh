#pragma once

#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/row_kernels.h"

// One block a row, but for activations. Each thread reads and writes the same columns throughout, so that y may lie
// over what it is made of.
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

template <typename T, typename W>
__global__ void RmsNormKernel(NormedRows<T> rows, const W* weight, float eps) {
  __shared__ BlockSums sums;
  const int64_t r = blockIdx.x;
  const T* from = SumRow(rows, r);
  T* to = rows.y.row(r);
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < rows.width; i += blockDim.x) squares += Widen(from[i]) * Widen(from[i]);
  const float factor = 1.0f / sqrtf(BlockSum(squares, sums) / static_cast<float>(rows.width) + eps);
  for (int64_t i = threadIdx.x; i < rows.width; i += blockDim.x) {
    Put(Widen(weight[i]) * Rounded<W>(Widen(from[i]) * factor), to + i);
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

template <typename T>
__global__ void ActivateKernel(ActivatedRows<T> rows, Activation activation) {
  const int64_t r = blockIdx.x, i = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (i >= rows.width) return;
  const float value = Activated(activation, Widen(rows.x.row(r)[i]));
  T* y = rows.y.row(r) + i;
  if (rows.factor.data == nullptr) {
    Put(value, y);
  } else {
    Put(Rounded<T>(value) * Widen(rows.factor.row(r)[i]), y);
  }
}

template <typename T>
__global__ void GatherRowsKernel(GatheredRows<T> rows, bool add) {
  const int64_t r = blockIdx.x, at = rows.index[r] + rows.offset;
  const bool known = rows.index[r] >= 0 && at < rows.table_rows;
  for (int64_t i = threadIdx.x; i < rows.width; i += blockDim.x) {
    T* y = rows.y.row(r) + i;
    const float value = known ? Widen(rows.table.row(at)[i]) : NotANumber();
    Put(add ? value + Widen(*y) : value, y);
  }
}

}  // namespace lorad::cuda
