#include "model/base/new_folder.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "model/base/file_error.h"
#include "model/base/output_file.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr uintmax_t kMaxCompanionBytes = uintmax_t{256} << 20;

bool IsCompanion(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (name.starts_with(".") || name.ends_with(".index.json")) return false;
  static const std::set<std::string> kEndings = {".json", ".txt", ".jinja", ".model"};
  return kEndings.contains(path.extension().string()) || name.starts_with("LICENSE") || name.starts_with("NOTICE");
}

absl::Status SyncFolder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return FileError("open", path, errno);
  const int failed = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  return failed == 0 ? absl::OkStatus() : FileError("sync", path, failed);
}

}  // namespace

absl::StatusOr<std::unique_ptr<NewFolder>> NewFolder::Create(const std::string& path) {
  std::filesystem::path target(path);
  if (!target.has_filename()) target = target.parent_path();  // a slash at the end
  if (std::error_code error;
      std::filesystem::symlink_status(target, error).type() != std::filesystem::file_type::not_found) {
    return absl::AlreadyExistsError(absl::StrCat("output folder: ", path, "; must not exist"));
  }
  std::string working = absl::StrCat(target.parent_path().string(), target.has_parent_path() ? "/" : "", ".",
                                     target.filename().string(), ".XXXXXX");
  if (::mkdtemp(working.data()) == nullptr) return FileError("create a folder beside", target.string(), errno);
  ::chmod(working.c_str(), 0755);
  return std::unique_ptr<NewFolder>(new NewFolder(target.string(), std::move(working)));
}

NewFolder::~NewFolder() {
  std::error_code ignored;
  if (!published_) std::filesystem::remove_all(working_path_, ignored);
}

absl::Status NewFolder::Write(const std::string& file, const std::string& content) const {
  ASSIGN_OR_RETURN(OutputFile output, OutputFile::Create(PathOf(file)));
  RETURN_IF_ERROR(output.Write(content));
  return output.Finish();
}

absl::Status NewFolder::Copy(const std::string& from) const {
  const std::string path = PathOf(std::filesystem::path(from).filename().string());
  std::error_code error;
  std::filesystem::copy_file(from, path, error);
  if (error) return FileError(absl::StrCat("copy ", from, " to").c_str(), path, error.value());
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileError("open", path, errno);
  const int failed = ::fsync(fd) == 0 ? 0 : errno;
  ::close(fd);
  return failed == 0 ? absl::OkStatus() : FileError("sync", path, failed);
}

absl::Status NewFolder::CopyCompanions(const std::string& from_folder, const std::set<std::string>& but) const {
  std::error_code error;
  auto entry = std::filesystem::directory_iterator(from_folder, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    std::error_code ignored;
    const bool small = entry->is_regular_file(ignored) && entry->file_size(ignored) <= kMaxCompanionBytes;
    if (!small || !IsCompanion(entry->path()) || but.contains(entry->path().filename().string())) continue;
    RETURN_IF_ERROR(Copy(entry->path().string()));
  }
  return error ? FileError("list", from_folder, error.value()) : absl::OkStatus();
}

absl::Status NewFolder::Publish() {
  RETURN_IF_ERROR(SyncFolder(working_path_));
  if (::renameat2(AT_FDCWD, working_path_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) != 0) {
    return FileError("name the finished folder", path_, errno);
  }
  published_ = true;
  const std::string parent = std::filesystem::path(path_).parent_path().string();
  return SyncFolder(parent.empty() ? "." : parent);
}

}  // namespace lorad
