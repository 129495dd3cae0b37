#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_bf16.h>

#include "model/ops/cuda/row_kernels.h"

// Tensors as kernels take them.
namespace lorad::cuda {

inline cudaStream_t StreamOf(const at::Tensor& on) {
  return c10::cuda::getCurrentCUDAStream(on.device().index()).stream();
}

// nullptr for an undefined tensor.
template <typename T>
const T* DataOf(const at::Tensor& t) {
  return t.defined() ? static_cast<const T*>(t.const_data_ptr()) : nullptr;
}
template <typename T>
Rows<const T> RowsOf(const at::Tensor& t) {
  return {DataOf<T>(t), t.defined() ? t.stride(0) : 0};
}
template <typename T>
Rows<T> MutableRowsOf(at::Tensor& t) {
  return {static_cast<T*>(t.mutable_data_ptr()), t.stride(0)};
}

// Calls fn with a value of the tensor's element type: float or __nv_bfloat16.
template <typename Fn>
auto ForTypeOf(const at::Tensor& t, const Fn& fn) {
  return t.scalar_type() == at::kFloat ? fn(float{}) : fn(__nv_bfloat16{});
}

}  // namespace lorad::cuda
