#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace lorad {

// One daemon a folder: two would run the same jobs. Held until it is destroyed, or the process ends.
class FolderLock final {
 public:
  // Errors: Unavailable when the folder cannot be written; FailedPrecondition when another process has it.
  static absl::StatusOr<std::unique_ptr<FolderLock>> Take(const std::string& dir);
  ~FolderLock();

 private:
  explicit FolderLock(int file) : file_(file) {}
  const int file_;
};

}  // namespace lorad
