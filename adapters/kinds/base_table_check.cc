#include "adapters/kinds/base_table_check.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kBlock = 1 << 16;  // elements

// As numbers, so that 0 and -0 are equal.
bool SameNumbers(const std::vector<std::byte>& file, DType dtype, const float* base, int64_t count,
                 std::vector<std::byte>* rounded_base, std::vector<float>* a, std::vector<float>* b) {
  FromF32(base, count, dtype, rounded_base->data());
  if (std::memcmp(file.data(), rounded_base->data(), static_cast<size_t>(count * SizeBytes(dtype))) == 0) return true;
  ToF32(dtype, file.data(), count, a->data());
  ToF32(dtype, rounded_base->data(), count, b->data());
  return std::equal(a->begin(), a->begin() + count, b->begin());
}

}  // namespace

absl::Status CheckEqualsBaseTable(FileSource& files, const std::string& path, const std::string& tensor_name,
                                  const SafetensorsEntry& entry, Site site, const BaseTables& base_tables) {
  const std::string what = absl::StrCat(path, ": tensor ", Printable(tensor_name), ": shape: ", ShapeText(entry.shape));
  if (!entry.strides.empty())
    return absl::UnimplementedError(absl::StrCat(what, "; a strided view; save it contiguous"));
  if (base_tables == nullptr) {
    return absl::UnimplementedError(absl::StrCat(what, "; a copy of the base's table, which cannot be compared here"));
  }
  ASSIGN_OR_RETURN(const BaseTable table, base_tables({.site = site}));
  if (entry.shape != std::vector<int64_t>{table.rows, table.columns}) {
    return absl::UnimplementedError(absl::StrCat(what, "; the base's: [", table.rows, ", ", table.columns,
                                                 "]; a resized vocabulary is not supported yet"));
  }
  const int64_t total = table.rows * table.columns;
  const int64_t block = std::min(kBlock, total);
  std::vector<std::byte> file(static_cast<size_t>(block * SizeBytes(entry.dtype)));
  std::vector<std::byte> rounded(file.size());
  std::vector<float> base(static_cast<size_t>(block)), a(base.size()), b(base.size());
  for (int64_t i = 0; i < total; i += block) {
    const int64_t count = std::min(block, total - i);
    RETURN_IF_ERROR(files.ReadAt(path, entry.offset_bytes + i * SizeBytes(entry.dtype), count * SizeBytes(entry.dtype),
                                 file.data()));
    ToF32(table.dtype, table.data + i * SizeBytes(table.dtype), count, base.data());
    if (SameNumbers(file, entry.dtype, base.data(), count, &rounded, &a, &b)) continue;
    return absl::UnimplementedError(
        absl::StrCat(what, "; differs from the base's table: replacing it for one adapter is not supported yet"));
  }
  return absl::OkStatus();
}

}  // namespace lorad
