#include "tests/fuzz/seeds.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_split.h"
#include "model/base/check.h"

namespace lorad {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostSeedBytes = 1 << 19;

void Write(const fs::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
}

}  // namespace

std::string Contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  LORAD_CHECK(file.good());
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<std::string> SeedsNamed(const std::string& name, const std::vector<std::string>& folders) {
  std::vector<fs::path> paths;
  for (const std::string& folder : folders) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.path().filename() == name && entry.file_size() <= kMostSeedBytes) paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> seeds;
  for (const fs::path& path : paths) seeds.push_back(Contents(path));
  LORAD_CHECK(!seeds.empty());
  return seeds;
}

std::vector<std::string> Words(const std::string& words) { return absl::StrSplit(words, ' ', absl::SkipEmpty()); }

std::function<void(const std::string&)> WithFile(const fs::path& folder, const std::string& name,
                                                 const std::map<std::string, std::string>& others,
                                                 std::function<void(const std::string& dir)> then) {
  fs::create_directories(folder);
  for (const auto& [other, contents] : others) Write(folder / other, contents);
  return [folder, name, then = std::move(then)](const std::string& input) {
    Write(folder / name, input);
    then(folder.string());
  };
}

}  // namespace lorad
