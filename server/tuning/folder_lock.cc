#include "server/tuning/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lorad {

absl::StatusOr<std::unique_ptr<FolderLock>> FolderLock::Take(const std::string& dir) {
  const int file = open(absl::StrCat(dir, "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) {
    return absl::UnavailableError(absl::StrCat(dir, ": ", std::strerror(errno),
                                               "; limit: a folder that lorad may write; give another, or its rights"));
  }
  if (flock(file, LOCK_EX | LOCK_NB) == 0) return std::unique_ptr<FolderLock>(new FolderLock(file));
  close(file);
  return absl::FailedPreconditionError(absl::StrCat(dir, ": another daemon uses it; limit: one daemon a folder; ",
                                                    "end that one, or give another folder"));
}

FolderLock::~FolderLock() { close(file_); }

}  // namespace lorad
