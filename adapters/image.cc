#include "adapters/image.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "model/base/check.h"
#include "model/base/round_up.h"

namespace lorad {
namespace {

constexpr int64_t kAlignmentBytes = 64;

int64_t Aligned(int64_t bytes) { return RoundUp(bytes, kAlignmentBytes); }

void Copy(const HostTensor& from, DType to, std::byte* destination) {
  constexpr int64_t kBlock = 4096;
  float block[kBlock];
  const int64_t count = from.elements();
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t n = std::min(kBlock, count - i);
    ToF32(from.dtype, from.data() + i * SizeBytes(from.dtype), n, block);
    FromF32(block, n, to, destination + i * SizeBytes(to));
  }
}

// from [rows, columns] -> destination [columns, rows], some rows at a time.
void CopyTransposed(const HostTensor& from, DType to, std::byte* destination) {
  constexpr int64_t kRows = 64;
  const int64_t rows = from.shape[0];
  const int64_t columns = from.shape[1];
  std::vector<float> block(static_cast<size_t>(kRows * columns));
  float column[kRows];
  for (int64_t row = 0; row < rows; row += kRows) {
    const int64_t n = std::min(kRows, rows - row);
    ToF32(from.dtype, from.data() + row * columns * SizeBytes(from.dtype), n * columns, block.data());
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < n; ++r) column[r] = block[static_cast<size_t>(r * columns + c)];
      FromF32(column, n, to, destination + (c * rows + row) * SizeBytes(to));
    }
  }
}

const PackedSlot* FindSameRows(const AdapterImage& image, const ImageSlot& slot, const PackedLayout& layout) {
  for (size_t i = 0; i < layout.slots.size(); ++i) {
    const HostTensor& rows = image.slots[i].rows;
    if (rows.bytes == nullptr || rows.bytes != slot.rows.bytes) continue;
    if (rows.offset_bytes == slot.rows.offset_bytes && rows.shape == slot.rows.shape) return &layout.slots[i];
  }
  return nullptr;
}

}  // namespace

PackedLayout PlanLayout(const AdapterImage& image, DType pool_dtype) {
  PackedLayout layout;
  layout.dtype = pool_dtype;
  layout.routing = image.routing;
  const auto place = [&](int64_t bytes) {
    const int64_t offset = Aligned(layout.total_bytes);
    layout.total_bytes = offset + bytes;
    return offset;
  };
  const auto place_f32 = [&](int64_t count) { return place(count * SizeBytes(DType::kF32)); };
  for (const ImageSlot& slot : image.slots) {
    PackedSlot packed{
        .site = slot.site, .layer = slot.layer, .experts = slot.experts, .rank = slot.rank, .scale = slot.scale};
    packed.begin_bytes = Aligned(layout.total_bytes);
    if (slot.rank > 0) {
      packed.a_offset_bytes = place(slot.a.elements() * SizeBytes(pool_dtype));
      packed.b_offset_bytes = place(slot.b.elements() * SizeBytes(pool_dtype));
    }
    if (slot.magnitude.present()) packed.dora_offset_bytes = place_f32(3 * slot.magnitude.elements());
    if (slot.delta_bias.present()) packed.delta_bias_offset_bytes = place_f32(slot.delta_bias.elements());
    if (slot.bias.present()) packed.bias_offset_bytes = place_f32(slot.bias.elements());
    if (slot.rows.present()) {
      packed.num_rows = static_cast<int32_t>(slot.rows.shape[0]);
      packed.width = static_cast<int32_t>(slot.rows.shape[1]);
      packed.end_of_rows = slot.row_ids.empty() ? packed.num_rows : slot.row_ids.back() + 1;
      // Rows of a tied table are in the file, and in the pool, once.
      const PackedSlot* same = FindSameRows(image, slot, layout);
      packed.rows_offset_bytes =
          same != nullptr ? same->rows_offset_bytes : place(slot.rows.elements() * SizeBytes(pool_dtype));
      if (!slot.row_ids.empty()) packed.row_ids_offset_bytes = place(packed.num_rows * int64_t{sizeof(int32_t)});
    }
    if (slot.router.present()) packed.router_offset_bytes = place_f32(slot.router.elements());
    packed.end_bytes = std::max(packed.begin_bytes, layout.total_bytes);
    layout.slots.push_back(packed);
  }
  return layout;
}

std::vector<std::string> ReplacedTensors(const AdapterImage& image) {
  std::vector<std::string> replaced;
  for (const ImageSlot& slot : image.slots) {
    const std::string module = absl::StrCat(std::string(Name(slot.site)), ", layer ", slot.layer);
    if (slot.bias.present()) replaced.push_back("bias of " + module);
    if (slot.rows.present()) replaced.push_back("weight of " + module);
    if (slot.site == Site::kFfn && slot.router.present()) replaced.push_back("routing of " + module);
  }
  std::sort(replaced.begin(), replaced.end());
  return replaced;
}

void PackSlot(const ImageSlot& slot, const PackedSlot& packed, DType dtype, std::byte* destination) {
  const auto at = [&](int64_t offset) { return destination + (offset - packed.begin_bytes); };
  const auto copy_f32 = [&](const std::vector<float>& values, int64_t offset) {
    if (offset >= 0) std::memcpy(at(offset), values.data(), values.size() * sizeof(float));
  };
  if (slot.rank > 0) {
    Copy(slot.a, dtype, at(packed.a_offset_bytes));
    CopyTransposed(slot.b, dtype, at(packed.b_offset_bytes));
  }
  if (slot.rows.present() && packed.rows_offset_bytes >= packed.begin_bytes) {
    Copy(slot.rows, dtype, at(packed.rows_offset_bytes));
  }
  if (packed.row_ids_offset_bytes >= 0) {
    std::memcpy(at(packed.row_ids_offset_bytes), slot.row_ids.data(), slot.row_ids.size() * sizeof(int32_t));
  }
  copy_f32(slot.dora, packed.dora_offset_bytes);
  copy_f32(slot.bias_change, packed.bias_offset_bytes);
  if (slot.delta_bias.present()) Copy(slot.delta_bias, DType::kF32, at(packed.delta_bias_offset_bytes));
  if (slot.router.present()) Copy(slot.router, DType::kF32, at(packed.router_offset_bytes));
}

void Pack(const AdapterImage& image, const PackedLayout& layout, std::byte* destination) {
  LORAD_CHECK_EQ(image.slots.size(), layout.slots.size());
  for (size_t i = 0; i < image.slots.size(); ++i) {
    PackSlot(image.slots[i], layout.slots[i], layout.dtype, destination + layout.slots[i].begin_bytes);
  }
}

}  // namespace lorad
