#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "model/config.h"

// Kernels of a row for itself, queued on a stream; the contracts are those of the operators. Pointers are the
// device's, strides in elements. T is float or __nv_bfloat16.
namespace lorad::cuda {

template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  __host__ __device__ T* row(int64_t r) const { return data + r * stride; }
};

// x is first added to the residual, if there is one, and the sum is what is normed.
template <typename T>
struct NormedRows {
  int64_t rows;
  int64_t width;
  Rows<const T> x;
  Rows<T> residual;  // data is nullptr: none
  Rows<T> y;
};
// W: T, or float. width: kMostNormWidth at most.
inline constexpr int kMostNormThreads = 512;
inline constexpr int64_t kMostNormWidth = 16384;
template <typename T, typename W>
cudaError_t LaunchRmsNorm(const NormedRows<T>& rows, const W* weight, float eps, cudaStream_t stream);
// weight and bias [width], or nullptr.
template <typename T>
cudaError_t LaunchLayerNorm(const NormedRows<T>& rows, const T* weight, const T* bias, float eps, cudaStream_t stream);

// y = act(x) * factor, without the factor where its data is nullptr.
template <typename T>
struct ActivatedRows {
  int64_t rows;
  int64_t width;
  Rows<const T> x;
  Rows<const T> factor;
  Rows<T> y;
};
template <typename T>
cudaError_t LaunchActivate(const ActivatedRows<T>& rows, Activation activation, cudaStream_t stream);

// y[r] = table[index[r] + offset], or += if `add`. A row outside the table becomes NaN.
template <typename T>
struct GatheredRows {
  int64_t rows;
  int64_t width;
  const int32_t* index;  // [rows]
  int64_t offset;
  int64_t table_rows;
  Rows<const T> table;
  Rows<T> y;
};
template <typename T>
cudaError_t LaunchGatherRows(const GatheredRows<T>& rows, bool add, cudaStream_t stream);

}  // namespace lorad::cuda
