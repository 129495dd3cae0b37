#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/base/dtype.h"

namespace lorad {

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  absl::Span<const std::byte> bytes = {};  // row-major, contiguous

  int64_t size_bytes() const;  // of shape and dtype; -1: too large
};

// Writes `path` as safetensors, tensors in the given order, the data aligned to 64 bytes, and syncs it to disk. Not
// atomic: a caller that replaces a file writes another name and renames. Errors: InvalidArgument when bytes and shape
// disagree or a name comes twice; as FileError.
absl::Status WriteSafetensors(const std::string& path, absl::Span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata);

// The same with the bytes of each tensor made when its turn comes; they must stay until the next one's.
using TensorMaker = std::function<absl::StatusOr<absl::Span<const std::byte>>(const TensorToWrite& tensor)>;
absl::Status WriteSafetensors(const std::string& path, absl::Span<const TensorToWrite> tensors,
                              const std::map<std::string, std::string>& metadata, const TensorMaker& make);

}  // namespace lorad
