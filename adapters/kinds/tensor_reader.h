#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "adapters/image.h"
#include "model/base/file_source.h"
#include "model/safetensors.h"

namespace lorad {

// Reads some tensors of a file into one buffer, in the file's order, each stretch that lies together at once. The
// file, its path and the entries must outlive it.
class TensorReader final {
 public:
  TensorReader(FileSource& files, const std::string& path) : files_(files), path_(path) {}

  void Want(const SafetensorsEntry& entry) { wanted_.push_back(&entry); }
  absl::Status Read();
  // A tensor that was wanted and read; it shares the buffer.
  HostTensor Get(const SafetensorsEntry& entry) const;

 private:
  FileSource& files_;
  const std::string& path_;
  std::vector<const SafetensorsEntry*> wanted_;
  std::map<const SafetensorsEntry*, int64_t> places_;
  std::shared_ptr<const std::vector<std::byte>> buffer_;
};

}  // namespace lorad
