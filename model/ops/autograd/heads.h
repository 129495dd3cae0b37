#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace lorad {

// x [T, heads, dim] of f32, of each row the heads side by side.
struct Heads {
  float* data;
  int64_t stride;  // from row to row
  int64_t dim;
  float* At(int64_t row, int64_t head) const { return data + row * stride + head * dim; }
};

// Of a tensor that is only read, too: LibTorch has no const ones.
inline Heads HeadsOf(const at::Tensor& x) {
  return {const_cast<float*>(x.const_data_ptr<float>()), x.stride(0), x.size(2)};
}

inline at::Tensor WithHeadsTogether(const at::Tensor& x) {
  return x.stride(2) == 1 && x.stride(1) == x.size(2) ? x : x.contiguous();
}

}  // namespace lorad
