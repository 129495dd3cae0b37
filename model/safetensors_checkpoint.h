#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/base/dtype.h"

namespace lorad {

// A file mapped read-only. Only the base model is read this way: its files must not be truncated while the daemon runs.
class MappedFile final {
 public:
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path, int64_t expected_bytes);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  // Tells the system that the pages of this range will not be read again.
  void Drop(const std::byte* begin, int64_t size_bytes) const;

 private:
  MappedFile(const std::byte* data, int64_t size_bytes) : data_(data), size_bytes_(size_bytes) {}
  const std::byte* const data_;
  const int64_t size_bytes_;
};

// A tensor of a checkpoint where it lies in its mapped file: little-endian, row-major, of any alignment.
struct StoredTensor {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t size_bytes = 0;
  std::shared_ptr<const MappedFile> file;
};

using Checkpoint = std::map<std::string, StoredTensor, std::less<>>;

// Maps model.safetensors of an HF folder, or the shards of model.safetensors.index.json.
// Errors: DataLoss without either, for a missing shard, a broken file, an index that does not say what the shards hold;
// Unimplemented for a folder with pytorch_model.bin alone.
absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& model_dir);

// The same of a causal LM that may have been saved by its inner model, without the head: then no name begins with
// "model.", and all but the head's get it, as when transformers loads them. Published OPT folders are so.
absl::StatusOr<Checkpoint> OpenCausalCheckpoint(const std::string& model_dir);

}  // namespace lorad
