#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/train/example.h"
#include "model/base/sha256.h"

namespace lorad {

// Examples on disk, in two files `PREFIX.bin` and `PREFIX.index`: what a job trains on, fixed when it was accepted,
// whatever becomes of the file it came from. Little-endian int32: count, ids, labels of each; the index holds an int64
// offset for each.

class ExampleStoreWriter final {
 public:
  static absl::StatusOr<std::unique_ptr<ExampleStoreWriter>> Create(const std::string& prefix);
  ~ExampleStoreWriter();

  // Errors: ResourceExhausted when the disk is full.
  absl::Status Append(const Example& example);
  // Syncs both files; gives the digest of the examples, in hex. Nothing may follow.
  absl::StatusOr<std::string> Finish();

 private:
  ExampleStoreWriter(std::string prefix, std::FILE* data, std::FILE* index);
  const std::string prefix_;
  std::FILE* data_;
  std::FILE* index_;
  int64_t offset_bytes_ = 0;
  Sha256 digest_;
};

// Threads  several may read at once.
class ExampleStore final {
 public:
  // Errors: NotFound; DataLoss for an index that is not one.
  static absl::StatusOr<std::shared_ptr<const ExampleStore>> Open(const std::string& prefix);
  ~ExampleStore();

  int64_t count() const { return count_; }
  // How many tokens it has. index in [0, count). Errors: DataLoss.
  absl::StatusOr<int64_t> Tokens(int64_t index) const;
  // index in [0, count). Errors: DataLoss.
  absl::StatusOr<Example> Get(int64_t index) const;

 private:
  struct Place {
    int64_t offset_bytes;  // of its ids
    int64_t tokens;
  };
  absl::StatusOr<Place> Find(int64_t index) const;

  ExampleStore(std::string prefix, int data, int index, int64_t count);
  const std::string prefix_;
  const int data_;
  const int index_;
  const int64_t count_;
};

}  // namespace lorad
