#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// f32 tensors as a safetensors file, synced to disk; however they lie in memory, and wherever.
absl::Status SaveTensors(const std::string& path, const NamedTensors& tensors,
                         const std::map<std::string, std::string>& metadata);

// The same as torch.save writes them.
absl::Status SaveTorchTensors(const std::string& path, const NamedTensors& tensors);

// Fills `tensors` from a file that has exactly these names and shapes, all f32, and whose metadata `check` approves of.
// All of that is known before the first is filled, so that a file that does not fit changes nothing. Errors: DataLoss;
// `check`'s; the file's, which may come in the middle.
using Metadata = std::map<std::string, std::string>;
absl::Status LoadTensors(const std::string& path, const NamedTensors& tensors,
                         const std::function<absl::Status(const Metadata& metadata)>& check);

}  // namespace lorad
