#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/string_view.h"

namespace lorad {

// A folder of its own that goes with the object.
class TempDir final {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void WriteFile(const std::string& path, absl::string_view content);
std::string ReadFile(const std::string& path);
nlohmann::json ReadJsonFile(const std::string& path);
// Names in `dir`, sorted.
std::vector<std::string> ListDir(const std::string& dir);
// Copies the files of `from` (no sub-folders) into `to`.
void CopyFiles(const std::string& from, const std::string& to);

// A safetensors file byte by byte: length, header as it is given, data.
std::string RawSafetensors(absl::string_view header, absl::string_view data);

}  // namespace lorad
