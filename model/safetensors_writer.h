#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/base/dtype.h"

namespace lorad {

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  absl::Span<const std::byte> bytes;  // row-major, contiguous
};

// Writes `path` as safetensors, tensors in the given order, the data aligned to 64 bytes, and syncs it to disk. Not
// atomic: a caller that replaces a file writes another name and renames. Errors: InvalidArgument when bytes and shape
// disagree or a name comes twice; Unavailable with the system's words.
absl::Status WriteSafetensors(const std::string& path, absl::Span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace lorad
