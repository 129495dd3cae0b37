#include "model/safetensors_checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr int64_t kMaxIndexBytes = int64_t{256} << 20;

absl::StatusOr<Checkpoint> MapFile(FileSource& files, const std::string& path) {
  ASSIGN_OR_RETURN(const SafetensorsIndex index, ParseSafetensorsHeader(files, path));
  ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MappedFile::Open(path, index.file_bytes));
  Checkpoint checkpoint;
  for (const auto& [name, entry] : index.tensors) {
    checkpoint[name] = {entry.dtype, entry.shape, file->data() + entry.offset_bytes, entry.size_bytes, file};
  }
  return checkpoint;
}

// A shard's name comes from the index: it must not lead out of the folder.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

absl::StatusOr<Checkpoint> OpenShards(FileSource& files, const std::string& model_dir, const std::string& index_path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(files, index_path, kMaxIndexBytes));
  const nlohmann::json index = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return absl::DataLossError(absl::StrCat(index_path, ": no weight_map"));
  }
  std::map<std::string, std::set<std::string>> names_by_shard;
  for (const auto& item : index["weight_map"].items()) {
    if (!item.value().is_string() || !IsPlainFileName(item.value().get_ref<const std::string&>())) {
      return absl::DataLossError(
          absl::StrCat(index_path, ": tensor ", Printable(item.key()), ": not the name of a file in this folder"));
    }
    names_by_shard[item.value().get<std::string>()].insert(item.key());
  }
  Checkpoint checkpoint;
  for (const auto& [shard, names] : names_by_shard) {
    const std::string path = absl::StrCat(model_dir, "/", shard);
    if (!files.Exists(path)) {
      return absl::DataLossError(absl::StrCat("missing shard: ", path, "; named by ", index_path));
    }
    ASSIGN_OR_RETURN(const Checkpoint part, MapFile(files, path));
    for (const std::string& name : names) {
      if (!part.contains(name)) {
        return absl::DataLossError(
            absl::StrCat(path, ": tensor ", Printable(name), ": not in this shard, where ", index_path, " puts it"));
      }
    }
    for (const auto& [name, tensor] : part) {
      if (!names.contains(name)) {
        return absl::DataLossError(
            absl::StrCat(path, ": tensor ", Printable(name), ": in this shard, but ", index_path, " does not say so"));
      }
      checkpoint.emplace(name, tensor);
    }
  }
  return checkpoint;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFile::Open(const std::string& path, int64_t expected_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(absl::StrCat("cannot open: ", path, ": ", std::strerror(errno)));
  struct stat info;
  const bool as_expected = ::fstat(fd, &info) == 0 && info.st_size == expected_bytes;
  void* data =
      as_expected ? ::mmap(nullptr, static_cast<size_t>(expected_bytes), PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
  const int error = errno;
  ::close(fd);
  if (!as_expected) return absl::DataLossError(absl::StrCat(path, ": changed while it was opened"));
  if (data == MAP_FAILED) return absl::UnavailableError(absl::StrCat("cannot map: ", path, ": ", std::strerror(error)));
  return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<const std::byte*>(data), expected_bytes));
}

MappedFile::~MappedFile() { ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_bytes_)); }

void MappedFile::Drop(const std::byte* begin, int64_t size_bytes) const {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t first = (begin - data_ + page - 1) / page * page;  // only pages that no other tensor shares
  const int64_t last = (begin - data_ + size_bytes) / page * page;
  if (last > first) ::madvise(const_cast<std::byte*>(data_) + first, static_cast<size_t>(last - first), MADV_DONTNEED);
}

absl::StatusOr<Checkpoint> OpenCheckpoint(const std::string& model_dir) {
  const std::unique_ptr<FileSource> files = LocalFiles();
  const std::string single = absl::StrCat(model_dir, "/model.safetensors");
  const std::string index = absl::StrCat(model_dir, "/model.safetensors.index.json");
  if (files->Exists(single)) return MapFile(*files, single);
  if (files->Exists(index)) return OpenShards(*files, model_dir, index);
  for (const char* pickle : {"pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (!files->Exists(absl::StrCat(model_dir, "/", pickle))) continue;
    return absl::UnimplementedError(
        absl::StrCat(model_dir, "/", pickle, ": not supported: pickled weights; convert to safetensors"));
  }
  return absl::DataLossError(absl::StrCat("no weights: neither ", single, " nor model.safetensors.index.json"));
}

absl::StatusOr<Checkpoint> OpenCausalCheckpoint(const std::string& model_dir) {
  ASSIGN_OR_RETURN(Checkpoint checkpoint, OpenCheckpoint(model_dir));
  const auto is_named_as_whole = [](const auto& entry) { return absl::StartsWith(entry.first, "model."); };
  if (std::any_of(checkpoint.begin(), checkpoint.end(), is_named_as_whole)) return checkpoint;
  Checkpoint whole;
  for (auto& [name, tensor] : checkpoint) {
    const bool is_head = absl::StartsWith(name, "lm_head.");
    whole.emplace(is_head ? name : absl::StrCat("model.", name), std::move(tensor));
  }
  return whole;
}

}  // namespace lorad
