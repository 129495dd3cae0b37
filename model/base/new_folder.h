#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// A folder that appears at its path whole or not at all: its files are written into a sibling of another name, which
// Publish renames. What is not published is removed.
class NewFolder final {
 public:
  // Errors: AlreadyExists when something is at `path`; NotFound when its parent is no folder; else as FileError.
  static absl::StatusOr<std::unique_ptr<NewFolder>> Create(const std::string& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  // Where a file of the folder is to be written.
  std::string PathOf(const std::string& file) const { return working_path_ + "/" + file; }
  absl::Status Write(const std::string& file, const std::string& content) const;
  // A regular file of elsewhere, under its own name.
  absl::Status Copy(const std::string& from) const;
  // What lies beside weights in a folder of transformers and is not one of `but`: of the tokenizer, of generation,
  // licences. No sub-folders.
  absl::Status CopyCompanions(const std::string& from_folder, const std::set<std::string>& but) const;

  // Everything is on disk when this returns. Errors: AlreadyExists when somebody was faster.
  absl::Status Publish();

 private:
  NewFolder(std::string path, std::string working_path)
      : path_(std::move(path)), working_path_(std::move(working_path)) {}

  const std::string path_;
  const std::string working_path_;
  bool published_ = false;
};

}  // namespace lorad
