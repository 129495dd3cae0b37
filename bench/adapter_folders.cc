#include "bench/adapter_folders.h"

#include <filesystem>

#include "absl/strings/str_cat.h"

namespace lorad::bench {

std::string AdapterFolders::Of(int64_t rank) const {
  const std::string path = absl::StrCat(folder_.path(), "/r", rank);
  if (!std::filesystem::exists(path)) WriteLora(path, shape_, rank, {"q_proj", "k_proj", "v_proj", "o_proj"});
  return path;
}

std::string AdapterFolders::ToFind(const std::string& name, int64_t count, int64_t rank) const {
  const std::filesystem::path from = Of(rank), to = std::filesystem::path(folder_.path()) / name;
  for (int64_t i = 0; i < count; ++i) {
    const std::filesystem::path folder = to / absl::StrCat("a", i);
    std::filesystem::create_directories(folder);
    for (const auto& file : std::filesystem::directory_iterator(from)) {
      std::filesystem::create_hard_link(file.path(), folder / file.path().filename());
    }
  }
  return to.string();
}

int64_t AdapterFolders::PoolBytes(int64_t rank, int64_t page_bytes) const {
  constexpr int64_t kBytes = 2;
  const int64_t kv = shape_.hidden / shape_.heads * shape_.kv_heads;
  const int64_t of_layer = rank * kBytes * (4 * shape_.hidden + 2 * (shape_.hidden + kv));
  return (shape_.layers * of_layer / page_bytes + 1) * page_bytes;
}

}  // namespace lorad::bench
