#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace lorad {

// Where fuzz targets take their seeds from, and where they may write.
struct FuzzPlaces {
  std::string golden;             // tests/golden
  std::filesystem::path scratch;  // empty, and gone with the run
};

std::string Contents(const std::filesystem::path& path);

// All files of that name below the folders, at most half a megabyte each, sorted: every machine has the same seeds.
std::vector<std::string> SeedsNamed(const std::string& name, const std::vector<std::string>& folders);

// What stands between the spaces.
std::vector<std::string> Words(const std::string& words);

// A run of `then` in a folder on disk whose file `name` is the input; the others stay.
std::function<void(const std::string& input)> WithFile(const std::filesystem::path& folder, const std::string& name,
                                                       const std::map<std::string, std::string>& others,
                                                       std::function<void(const std::string& dir)> then);

}  // namespace lorad
