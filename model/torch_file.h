#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "model/base/file_source.h"
#include "model/safetensors.h"

namespace lorad {

// Finds the tensors in a file that torch.save wrote (since torch 1.6: a zip archive with a pickle): a dictionary of
// tensors or parameters by name. Nothing in it is executed, and the data is not read. Tensors may share storages, and
// views keep their strides.
//
// Errors   as ReadZipDirectory and ReadPickledTensors; Unimplemented, with a hint, for the older format without zip and
//          for big-endian files.
// Source   torch/serialization.py: archive.zip/{data.pkl, byteorder, data/<storage>} under one folder of any name.
absl::StatusOr<SafetensorsIndex> ParseTorchFile(FileSource& files, const std::string& path);

}  // namespace lorad
