#include "model/base/file_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/file_error.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

class FileDescriptor final {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

// An open regular file. Errors are of `path`, the name that the caller knows it by.
absl::StatusOr<int64_t> RegularSizeBytes(const FileDescriptor& file, const std::string& path) {
  struct stat info;
  if (::fstat(file.get(), &info) != 0) return FileError("open", path, errno);
  if (!S_ISREG(info.st_mode)) return absl::NotFoundError(absl::StrCat("not a regular file: ", path));
  return static_cast<int64_t>(info.st_size);
}

absl::Status ReadExactly(const FileDescriptor& file, const std::string& path, int64_t offset, int64_t size,
                         std::byte* destination) {
  RETURN_IF_ERROR(RegularSizeBytes(file, path).status());
  int64_t done = 0;
  while (done < size) {
    const ssize_t n = ::pread(file.get(), destination + done, static_cast<size_t>(size - done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError("read", path, errno);
    if (n == 0) {
      return absl::DataLossError(
          absl::StrCat("file ends early: ", path, "; bytes wanted up to: ", offset + size, "; found: ", offset + done));
    }
    done += n;
  }
  return absl::OkStatus();
}

// Without O_NONBLOCK opening a FIFO would wait for its writer for ever.
constexpr int kOpenToRead = O_RDONLY | O_CLOEXEC | O_NONBLOCK;

class LocalFileSource final : public FileSource {
 public:
  bool Exists(const std::string& path) override {
    struct stat info;
    return ::stat(path.c_str(), &info) == 0;
  }

  absl::StatusOr<int64_t> SizeBytes(const std::string& path) override {
    struct stat info;
    if (::stat(path.c_str(), &info) != 0) return FileError("open", path, errno);
    if (!S_ISREG(info.st_mode)) return absl::NotFoundError(absl::StrCat("not a regular file: ", path));
    return static_cast<int64_t>(info.st_size);
  }

  absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) override {
    const FileDescriptor file(::open(path.c_str(), kOpenToRead));
    if (file.get() < 0) return FileError("open", path, errno);
    return ReadExactly(file, path, offset, size, destination);
  }
};

class RootedFileSource final : public FileSource {
 public:
  explicit RootedFileSource(std::string root) : root_(std::move(root)) {}

  // One that leads outside exists: reading it then says why it is refused.
  bool Exists(const std::string& path) override { return !absl::IsNotFound(Resolve(path).status()); }

  absl::StatusOr<int64_t> SizeBytes(const std::string& path) override {
    ASSIGN_OR_RETURN(const Place place, Resolve(path));
    const FileDescriptor file(OpenBeneath(place));
    if (file.get() < 0) return FileError("open", path, errno);
    return RegularSizeBytes(file, path);
  }

  absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) override {
    ASSIGN_OR_RETURN(const Place place, Resolve(path));
    const FileDescriptor file(OpenBeneath(place));
    if (file.get() < 0) return FileError("open", path, errno);
    return ReadExactly(file, path, offset, size, destination);
  }

 private:
  struct Place {
    std::filesystem::path root;
    std::filesystem::path below;  // of the root, free of symbolic links when it was resolved
  };

  absl::StatusOr<Place> Resolve(const std::string& path) const {
    std::error_code error;
    const std::filesystem::path root = std::filesystem::canonical(root_, error);
    if (error) return FileError("open", root_, error.value());
    const std::filesystem::path real = std::filesystem::canonical(path, error);
    if (error) return FileError("open", path, error.value());
    const auto [in_root, below] = std::mismatch(root.begin(), root.end(), real.begin(), real.end());
    if (in_root != root.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("file leads outside its root: ", path, "; must lie under: ", root.string()));
    }
    Place place{root, {}};
    for (auto part = below; part != real.end(); ++part) place.below /= *part;
    return place;
  }

  // Goes down from the root and follows no link: whoever puts one into the path after it was resolved is refused
  // (ELOOP, ENOTDIR). -1 with errno.
  static int OpenBeneath(const Place& place) {
    int fd = ::open(place.root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (auto part = place.below.begin(); fd >= 0 && part != place.below.end(); ++part) {
      const FileDescriptor folder(fd);
      const bool last = std::next(part) == place.below.end();
      fd = ::openat(folder.get(), part->c_str(), (last ? kOpenToRead : O_PATH | O_DIRECTORY | O_CLOEXEC) | O_NOFOLLOW);
    }
    return fd;
  }

  const std::string root_;
};

class SplitFileSource final : public FileSource {
 public:
  SplitFileSource(std::string folder, std::unique_ptr<FileSource> inside, std::unique_ptr<FileSource> outside)
      : prefix_(std::move(folder) + "/"), inside_(std::move(inside)), outside_(std::move(outside)) {}

  bool Exists(const std::string& path) override { return Of(path).Exists(path); }
  absl::StatusOr<int64_t> SizeBytes(const std::string& path) override { return Of(path).SizeBytes(path); }
  absl::Status ReadAt(const std::string& path, int64_t offset, int64_t size, std::byte* destination) override {
    return Of(path).ReadAt(path, offset, size, destination);
  }

 private:
  FileSource& Of(const std::string& path) const {
    return path.compare(0, prefix_.size(), prefix_) == 0 ? *inside_ : *outside_;
  }

  const std::string prefix_;
  const std::unique_ptr<FileSource> inside_;
  const std::unique_ptr<FileSource> outside_;
};

}  // namespace

std::unique_ptr<FileSource> SplitFiles(std::string folder, std::unique_ptr<FileSource> inside,
                                       std::unique_ptr<FileSource> outside) {
  return std::make_unique<SplitFileSource>(std::move(folder), std::move(inside), std::move(outside));
}

std::unique_ptr<FileSource> RootedFiles(std::string root) {
  return std::make_unique<RootedFileSource>(std::move(root));
}

std::unique_ptr<FileSource> LocalFiles() { return std::make_unique<LocalFileSource>(); }

absl::StatusOr<std::string> ReadWholeFile(FileSource& files, const std::string& path, int64_t limit_bytes) {
  ASSIGN_OR_RETURN(const int64_t size, files.SizeBytes(path));
  if (size > limit_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("file too large: ", path, "; bytes: ", size, "; limit: ", limit_bytes));
  }
  std::string content(static_cast<size_t>(size), '\0');
  RETURN_IF_ERROR(files.ReadAt(path, 0, size, reinterpret_cast<std::byte*>(content.data())));
  return content;
}

}  // namespace lorad
