#pragma once

#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/file_source.h"

namespace lorad {

// Files that are in memory alone, by path.
class MemoryFiles final : public FileSource {
 public:
  explicit MemoryFiles(std::map<std::string, std::string> contents) : contents_(std::move(contents)) {}

  bool Exists(const std::string& path) override { return contents_.contains(path); }
  absl::StatusOr<int64_t> SizeBytes(const std::string& path) override {
    const auto found = contents_.find(path);
    if (found == contents_.end()) return absl::NotFoundError(absl::StrCat("no file: ", path));
    return static_cast<int64_t>(found->second.size());
  }
  absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) override {
    const auto found = contents_.find(path);
    if (found == contents_.end()) return absl::NotFoundError(absl::StrCat("no file: ", path));
    const auto file_bytes = static_cast<int64_t>(found->second.size());
    if (offset < 0 || size < 0 || offset > file_bytes || size > file_bytes - offset) {
      return absl::DataLossError(absl::StrCat("file ends early: ", path));
    }
    if (size > 0) std::memcpy(destination, found->second.data() + offset, static_cast<size_t>(size));
    return absl::OkStatus();
  }

 private:
  const std::map<std::string, std::string> contents_;
};

}  // namespace lorad
