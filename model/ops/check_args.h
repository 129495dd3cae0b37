#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// Argument checks of the ops. Every message begins "op: argument: ".
class ArgCheck final {
 public:
  explicit ArgCheck(std::string_view op) : op_(op) {}

  static constexpr int64_t kAny = -1;
  // Strided CPU or CUDA tensor of `dtype` and the shape (kAny: any size); each row (last dimension) contiguous.
  absl::Status Tensor(std::string_view name, const at::Tensor& t, at::ScalarType dtype,
                      std::initializer_list<int64_t> shape) const;
  // The same, and contiguous as a whole.
  absl::Status Contiguous(std::string_view name, const at::Tensor& t, at::ScalarType dtype,
                          std::initializer_list<int64_t> shape) const;
  // float32 or bfloat16.
  absl::Status Floating(std::string_view name, const at::Tensor& t) const;
  // Contiguous [size], of `dtype` or float32 (see model/ops/rms_norm.h).
  absl::Status NormWeight(std::string_view name, const at::Tensor& t, at::ScalarType dtype, int64_t size) const;
  absl::Status SameDevice(const at::Tensor& a, std::string_view name, const at::Tensor& b) const;
  absl::Status Error(std::string_view name, std::string_view value, std::string_view limit) const;

 private:
  std::string_view op_;
};

std::string ShapeOf(const at::Tensor& t);

}  // namespace lorad
