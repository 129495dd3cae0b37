#include "tests/support/test_files.h"

#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "model/base/check.h"

namespace lorad {

TempDir::TempDir() {
  std::error_code error;
  std::string pattern = std::filesystem::temp_directory_path(error).string() + "/lorad_test_XXXXXX";
  LORAD_CHECK(!error && ::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempDir::~TempDir() {
  std::error_code error;
  std::filesystem::remove_all(path_, error);
}

void WriteFile(const std::string& path, absl::string_view content) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  LORAD_CHECK(out.good());
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  LORAD_CHECK(in.good());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

nlohmann::json ReadJsonFile(const std::string& path) {
  nlohmann::json json = nlohmann::json::parse(ReadFile(path), nullptr, /*allow_exceptions=*/false);
  LORAD_CHECK(!json.is_discarded());
  return json;
}

std::vector<std::string> ListDir(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error))
    names.push_back(entry.path().filename().string());
  LORAD_CHECK(!error);
  std::sort(names.begin(), names.end());
  return names;
}

void CopyFiles(const std::string& from, const std::string& to) {
  for (const std::string& name : ListDir(from)) {
    std::error_code error;
    std::filesystem::copy_file(from + "/" + name, to + "/" + name, std::filesystem::copy_options::overwrite_existing,
                               error);
    LORAD_CHECK(!error);
  }
}

std::string RawSafetensors(absl::string_view header, absl::string_view data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(static_cast<uint64_t>(header.size()) >> (8 * i)));
  file.append(header.data(), header.size());
  file.append(data.data(), data.size());
  return file;
}

}  // namespace lorad
