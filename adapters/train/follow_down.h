#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace lorad {

// Adds to leaves what the gradients of `roots` are by them. All of it runs on this thread, where LibTorch has threads
// of its own for what lies on a device: a piece is told of where somebody listens (model/ops/pieces.h).
//
// Errors   thrown by LibTorch: call under Guarded.
void FollowDown(const std::vector<at::Tensor>& roots, const std::vector<at::Tensor>& gradients);

}  // namespace lorad
