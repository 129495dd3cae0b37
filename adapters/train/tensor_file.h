#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"

namespace lorad {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// f32 tensors as a safetensors file, synced to disk.
absl::Status SaveTensors(const std::string& path, const NamedTensors& tensors,
                         const std::map<std::string, std::string>& metadata);

// Fills `tensors` from a file that has exactly these names and shapes, all f32. Gives the metadata. Errors: DataLoss.
absl::Status LoadTensors(const std::string& path, const NamedTensors& tensors,
                         std::map<std::string, std::string>* metadata);

}  // namespace lorad
