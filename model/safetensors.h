#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/base/dtype.h"
#include "model/base/file_source.h"

namespace lorad {

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Where one tensor lies: little-endian, row-major, contiguous unless it has strides.
struct SafetensorsEntry {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides = {};  // in elements, of a view in a torch file; empty: row-major and contiguous
  int64_t offset_bytes = 0;           // from the start of the file
  int64_t size_bytes = 0;             // product(shape) * SizeBytes(dtype)
};

// What a file of tensors says it holds, checked against the file's size. In a safetensors file no tensor overlaps
// another, and nothing lies between, before or after them.
struct SafetensorsIndex {
  std::string path;
  int64_t file_bytes = 0;
  std::map<std::string, SafetensorsEntry, std::less<>> tensors;
  std::map<std::string, std::string, std::less<>> metadata;  // "__metadata__"
};

// Reads and checks the header of `path`; the data is not read.
//
// Errors   DataLoss, naming the file and the tensor, for anything that lies: length, JSON, UTF-8, duplicate names,
//          shapes, offsets.
//          Unimplemented for an element type of the format that is not supported (F8_E4M3, U16, …).
// Source   safetensors, README "Format"; the library itself accepts duplicate names, we do not.
absl::StatusOr<SafetensorsIndex> ParseSafetensorsHeader(FileSource& files, const std::string& path);

// The JSON part alone: `header` is followed by `data_bytes` bytes of data, which begin at `data_offset_bytes`.
absl::StatusOr<SafetensorsIndex> ParseSafetensorsJson(absl::string_view header, int64_t data_offset_bytes,
                                                      int64_t data_bytes, const std::string& path);

// Reads one tensor, row-major, into `destination` (entry.size_bytes). Errors: Unimplemented for a view of a stretch
// many times its own size.
absl::Status ReadTensor(FileSource& files, const std::string& path, const SafetensorsEntry& entry,
                        std::byte* destination);

// A name from a file in a form that fits into a message: control characters escaped, cut when long.
std::string Printable(absl::string_view name);

// "[2, 3]"
std::string ShapeText(const std::vector<int64_t>& shape);

}  // namespace lorad
