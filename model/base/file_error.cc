#include "model/base/file_error.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace lorad {

absl::Status FileError(const char* doing, const std::string& path, int error) {
  const std::string message = absl::StrCat("cannot ", doing, ": ", path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EEXIST:
    case ENOTEMPTY:
      return absl::AlreadyExistsError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(absl::StrCat(message, "; free some space there, or write elsewhere"));
    default:
      return absl::UnavailableError(message);
  }
}

}  // namespace lorad
