#pragma once

#include <string>

#include "absl/status/status.h"

namespace lorad {

// Writes the whole content of a small file and syncs it to disk. Errors: ResourceExhausted when the disk is full, else
// Unavailable.
absl::Status WriteSyncedFile(const std::string& path, const std::string& content);

}  // namespace lorad
