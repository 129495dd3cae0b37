#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "model/ops/cuda/row_kernels.h"

// Routing to experts and back, queued on a stream; the contracts are those of RouteTopK and CombineExperts. Pointers
// are the device's. T is float or __nv_bfloat16.
namespace lorad::cuda {

inline constexpr int64_t kMaxExperts = 1024;  // of the kernel's shared memory

template <typename T>
cudaError_t LaunchRouteTopK(const Rows<const T>& logits, int64_t rows, int64_t experts, int64_t k, bool renormalise,
                            int32_t* chosen, float* weights, cudaStream_t stream);

template <typename T>
struct CombinedRows {
  int64_t rows;
  int64_t width;
  int64_t k;
  Rows<const T> x;
  const int32_t* pairs;  // [rows, k]; a negative one is none
  const float* weights;  // [rows, k]
  Rows<const T> shared;  // data is nullptr: none
  Rows<const T> shared_logits;
  const int32_t* to_rows;  // [rows], negative: nowhere; or nullptr: each its own
  bool add;
  Rows<T> y;
};
template <typename T>
cudaError_t LaunchCombineExperts(const CombinedRows<T>& rows, cudaStream_t stream);

}  // namespace lorad::cuda
