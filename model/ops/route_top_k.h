#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// Chooses the k best experts of each row.
//
//   p = softmax(logits[r]) in f32 over all E;  experts[r] = the k largest, best first (of equals the lowest number)
//   weights[r] = p of those, divided by their sum if `renormalise`
//
// logits [R, E] f32 or bf16; experts [R, k] int32, weights [R, k] f32, both contiguous; 1 <= k <= E; one device.
// A row depends on itself alone; one that is not a number chooses experts 0 to k - 1, with weights that are none.
// Errors: InvalidArgument names the argument and its shape. Source: HF MixtralTopKRouter, Qwen2MoeTopKRouter.
struct RouteTopKArgs {
  const at::Tensor& logits;
  bool renormalise;
  at::Tensor& experts;
  at::Tensor& weights;
};
absl::Status RouteTopK(const RouteTopKArgs& args);

}  // namespace lorad
