#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace lorad {

// A file that is written front to back. Errors: as FileError.
class OutputFile final {
 public:
  // In the place of what is at `path`.
  static absl::StatusOr<OutputFile> Create(const std::string& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  absl::Status Write(absl::Span<const std::byte> bytes);
  absl::Status Write(std::string_view text);
  // It is on disk when this returns; nothing is written after it.
  absl::Status Finish();

 private:
  OutputFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;  // -1: closed
};

}  // namespace lorad
