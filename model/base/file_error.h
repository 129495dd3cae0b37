#pragma once

#include <string>

#include "absl/status/status.h"

namespace lorad {

// "cannot DOING: PATH: the system's words for errno `error`". NotFound, AlreadyExists, PermissionDenied,
// ResourceExhausted for a full disk or quota, else Unavailable.
absl::Status FileError(const char* doing, const std::string& path, int error);

}  // namespace lorad
