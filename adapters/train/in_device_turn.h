#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

// Does `use`, which uses the device, in a turn of this thread's (device_turns.h); on the CPU at once. Errors: as
// GuardedOnDevice (model/device_step.h); `use`'s.
absl::Status InDeviceTurn(at::Device device, const std::function<absl::Status()>& use);

// Copies the host's tensor to `to`, of the same shape, or to a new one; in pieces of some MiB. Throws as LibTorch does.
void Send(const at::Tensor& host, const at::Tensor& to);
at::Tensor SentTo(at::Device device, const at::Tensor& host);

}  // namespace lorad
