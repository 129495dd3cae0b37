#include "model/torch_file.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/base/status_macros.h"
#include "model/pickled_tensors.h"
#include "model/zip_directory.h"

namespace lorad {
namespace {

constexpr int64_t kMaxPickleBytes = int64_t{16} << 20;
constexpr char kPickle[] = "/data.pkl";

absl::Status CheckIsZip(FileSource& files, const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t file_bytes, files.SizeBytes(path));
  char begin[4] = {};
  RETURN_IF_ERROR(files.ReadAt(path, 0, std::min<int64_t>(file_bytes, 4), reinterpret_cast<std::byte*>(begin)));
  if (std::memcmp(begin, "PK\x03\x04", 4) == 0) return absl::OkStatus();
  if (begin[0] == '\x80') {
    return absl::UnimplementedError(absl::StrCat(
        path, ": torch's old format, a pickle without zip; save it again with torch 1.6 or newer, or as safetensors"));
  }
  return absl::DataLossError(absl::StrCat(path, ": not a file of torch.save: does not begin as a zip archive"));
}

// "name/data.pkl" -> "name"; exactly one may be there.
absl::StatusOr<std::string> RootOf(const std::map<std::string, ZipEntry>& entries, const std::string& path) {
  std::string root;
  for (const auto& [name, entry] : entries) {
    absl::string_view folder = name;
    if (!absl::ConsumeSuffix(&folder, kPickle) || folder.empty() || absl::StrContains(folder, '/')) continue;
    if (!root.empty()) return absl::DataLossError(absl::StrCat(path, ": more than one data.pkl"));
    root = std::string(folder);
  }
  if (root.empty()) return absl::DataLossError(absl::StrCat(path, ": no data.pkl: not a file of torch.save"));
  return root;
}

absl::StatusOr<std::string> Content(FileSource& files, const std::string& path, const ZipEntry& entry,
                                    int64_t limit_bytes) {
  if (entry.size_bytes > limit_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": its pickle is too large; bytes: ", entry.size_bytes, "; limit: ", limit_bytes));
  }
  std::string content(static_cast<size_t>(entry.size_bytes), '\0');
  RETURN_IF_ERROR(
      files.ReadAt(path, entry.offset_bytes, entry.size_bytes, reinterpret_cast<std::byte*>(content.data())));
  return content;
}

absl::Status CheckLittleEndian(FileSource& files, const std::string& path, const std::string& root,
                               const std::map<std::string, ZipEntry>& entries) {
  const auto entry = entries.find(root + "/byteorder");
  if (entry == entries.end()) return absl::OkStatus();  // before torch 2.1
  ASSIGN_OR_RETURN(const std::string order, Content(files, path, entry->second, 64));
  if (order == "little") return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(path, ": byteorder: ", Printable(order), "; supported: little; save it as safetensors"));
}

bool IsRowMajor(const PickledTensor& tensor) {
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] == 0) return true;
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

absl::StatusOr<SafetensorsEntry> EntryOf(const PickledTensor& tensor, const std::string& root,
                                         const std::map<std::string, ZipEntry>& entries, const std::string& path) {
  const std::string about = absl::StrCat(path, ": tensor ", Printable(tensor.name), ": ");
  const auto storage = entries.find(absl::StrCat(root, "/data/", tensor.storage));
  if (storage == entries.end()) {
    return absl::DataLossError(absl::StrCat(about, "no storage ", Printable(tensor.storage), " in the file"));
  }
  const int64_t item_bytes = SizeBytes(tensor.dtype);
  const int64_t stored = storage->second.size_bytes;
  if (stored % item_bytes != 0 || stored / item_bytes != tensor.storage_elements) {
    return absl::DataLossError(absl::StrCat(about, "storage of elements: ", tensor.storage_elements, " of ", item_bytes,
                                            " bytes; bytes in the file: ", stored));
  }
  SafetensorsEntry entry;
  entry.dtype = tensor.dtype;
  entry.shape = tensor.shape;
  entry.offset_bytes = storage->second.offset_bytes + tensor.offset * item_bytes;
  entry.size_bytes = item_bytes;
  for (const int64_t dim : tensor.shape) {
    if (__builtin_mul_overflow(entry.size_bytes, dim, &entry.size_bytes)) {
      return absl::DataLossError(absl::StrCat(about, "shape overflows: ", ShapeText(tensor.shape)));
    }
  }
  if (!IsRowMajor(tensor)) entry.strides = tensor.strides;
  return entry;
}

}  // namespace

absl::StatusOr<SafetensorsIndex> ParseTorchFile(FileSource& files, const std::string& path) {
  RETURN_IF_ERROR(CheckIsZip(files, path));
  using Entries = std::map<std::string, ZipEntry>;
  ASSIGN_OR_RETURN(const Entries entries, ReadZipDirectory(files, path));
  ASSIGN_OR_RETURN(const std::string root, RootOf(entries, path));
  RETURN_IF_ERROR(CheckLittleEndian(files, path, root, entries));
  ASSIGN_OR_RETURN(const std::string pickle, Content(files, path, entries.at(root + kPickle), kMaxPickleBytes));
  ASSIGN_OR_RETURN(const std::vector<PickledTensor> tensors, ReadPickledTensors(pickle, path));
  SafetensorsIndex index;
  index.path = path;
  ASSIGN_OR_RETURN(index.file_bytes, files.SizeBytes(path));
  for (const PickledTensor& tensor : tensors) {
    ASSIGN_OR_RETURN(SafetensorsEntry entry, EntryOf(tensor, root, entries, path));
    index.tensors.emplace(tensor.name, std::move(entry));
  }
  return index;
}

}  // namespace lorad
