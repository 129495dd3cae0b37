#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/base/dtype.h"

namespace lorad {

// A tensor as a view of a storage that lies beside the pickle.
struct PickledTensor {
  std::string name;     // its key in the dictionary
  std::string storage;  // the storage's key
  DType dtype = DType::kF32;
  int64_t storage_elements = 0;
  int64_t offset = 0;  // all in elements
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // as many as `shape`; none is negative, and the view lies within the storage
};

// Reads the pickle of a dictionary of tensors by name, as torch.save writes it (protocols 2 to 5), in its order.
// Nothing is executed: a handful of globals is known by name and stands for building tensors; any other ends it.
//
// Errors   Unimplemented, naming the global or the opcode, for anything else that a pickle may hold, os.system for one.
//          DataLoss for a pickle that is cut or contradicts itself, a name that comes twice, a view out of its storage.
//          `path` begins every message.
// Source   Python's pickletools for the opcodes, torch/_utils.py and torch/serialization.py for the globals.
absl::StatusOr<std::vector<PickledTensor>> ReadPickledTensors(absl::string_view pickle, const std::string& path);

}  // namespace lorad
