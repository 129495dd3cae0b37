#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "model/base/file_source.h"

namespace lorad {

inline constexpr int64_t kMaxLineBytes = int64_t{8} << 20;

// Gets every line that is not blank with its number (from 1), without its end. An error stops the reading.
using LineVisitor = std::function<absl::Status(int64_t number, std::string_view line)>;

// The lines of a file, read in pieces: memory does not grow with the file. Errors: the visitor's; DataLoss for a line
// longer than kMaxLineBytes; the file's own.
absl::Status ForEachLine(FileSource& files, const std::string& path, const LineVisitor& visit);
absl::Status ForEachLine(const std::vector<std::string>& lines, const LineVisitor& visit);

}  // namespace lorad
