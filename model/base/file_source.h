#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// Reads files; tests put failing and never-returning ones in its place. Errors: NotFound, DataLoss for a short read,
// each naming the path. Safe to call from several threads.
class FileSource {
 public:
  virtual ~FileSource() = default;
  virtual bool Exists(const std::string& path) = 0;
  virtual absl::StatusOr<int64_t> SizeBytes(const std::string& path) = 0;
  // Reads exactly [offset, offset + size).
  virtual absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) = 0;
};

std::unique_ptr<FileSource> LocalFiles();

// Reads only files whose real path, every symbolic link resolved, lies under the folder `root`; any other is
// InvalidArgument. Links that stay under the root may be used. Also while somebody changes links: what is opened is
// what was checked, or nothing.
std::unique_ptr<FileSource> RootedFiles(std::string root);

// What lies under `folder`, by the path as written, through `inside`; everything else through `outside`.
std::unique_ptr<FileSource> SplitFiles(std::string folder, std::unique_ptr<FileSource> inside,
                                       std::unique_ptr<FileSource> outside);

// The whole file; refuses one larger than `limit_bytes`.
absl::StatusOr<std::string> ReadWholeFile(FileSource& files, const std::string& path, int64_t limit_bytes);

}  // namespace lorad
