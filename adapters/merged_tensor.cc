#include "adapters/merged_tensor.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "adapters/ops/cpu/expand_kernels.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kBlockRows = 64;

std::vector<float> Floats(const HostTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  ToF32(tensor.dtype, tensor.data(), tensor.elements(), values.data());
  return values;
}

// [rows, columns] -> [columns, rows]
std::vector<float> Transposed(const std::vector<float>& from, int64_t rows, int64_t columns) {
  std::vector<float> to(from.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c)
      to[static_cast<size_t>(c * rows + r)] = from[static_cast<size_t>(r * columns + c)];
  }
  return to;
}

// Two factors of the update in the weight's own layout: left [rows, rank] times right [rank, columns].
struct Update {
  std::vector<float> left;
  std::vector<float> right;
};
Update UpdateOf(const ImageSlot& slot, bool embedding) {
  std::vector<float> a = Floats(slot.a), b = Floats(slot.b);
  if (!embedding) return {.left = std::move(b), .right = std::move(a)};
  return {.left = Transposed(a, slot.rank, slot.a.shape[1]), .right = Transposed(b, slot.b.shape[0], slot.rank)};
}

// What replaces rows of a table.
class OwnRows final {
 public:
  explicit OwnRows(const ImageSlot& slot) : ids_(slot.row_ids) {
    if (!slot.rows.present()) return;
    count_ = slot.rows.shape[0];
    width_ = slot.rows.shape[1];
    values_ = Floats(slot.rows);
  }

  // `block` [rows, width] holds the table's rows from `first` on.
  void PutInto(int64_t first, int64_t rows, float* block) const {
    for (int64_t i = ids_.empty() ? first : 0; i < count_; ++i) {
      const int64_t id = ids_.empty() ? i : ids_[static_cast<size_t>(i)];
      if (id >= first + rows) return;  // ascending
      if (id >= first) std::copy_n(values_.data() + i * width_, width_, block + (id - first) * width_);
    }
  }

 private:
  const std::vector<int32_t>& ids_;
  int64_t count_ = 0;
  int64_t width_ = 0;
  std::vector<float> values_;
};

absl::Status CheckFinite(const std::vector<std::byte>& merged, DType dtype, int64_t elements) {
  const int64_t at = FirstNotFinite(dtype, merged.data(), elements, dtype);
  if (at < 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("merged element ", at, " is not finite in ", std::string(Name(dtype))));
}

}  // namespace

absl::StatusOr<std::vector<std::byte>> MergedWeight(const BaseTable& weight, bool embedding, const ImageSlot& slot) {
  const int64_t columns = weight.columns, bytes = SizeBytes(weight.dtype);
  std::vector<std::byte> merged(static_cast<size_t>(weight.rows * columns * bytes));
  Update update;
  if (slot.rank > 0) {
    LORAD_CHECK_EQ(slot.a.shape[1], embedding ? weight.rows : columns);
    LORAD_CHECK_EQ(slot.b.shape[0], embedding ? columns : weight.rows);
    update = UpdateOf(slot, embedding);
  }
  const OwnRows own_rows(slot);
  std::vector<float> block(static_cast<size_t>(kBlockRows * columns));
  for (int64_t row = 0; row < weight.rows; row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, weight.rows - row);
    const int64_t count = rows * columns;
    ToF32(weight.dtype, weight.data + row * columns * bytes, count, block.data());
    own_rows.PutInto(row, rows, block.data());
    if (slot.rank > 0) {
      cpu::Expand({.h = update.left.data() + row * slot.rank,
                   .h_stride = slot.rank,
                   .rows = rows,
                   .rank = slot.rank,
                   .b_stride = columns,
                   .columns = columns,
                   .y_stride = columns,
                   .scale = slot.scale},
                  update.right.data(), block.data());
    }
    for (int64_t i = 0; !slot.dora.empty() && i < count; ++i) {
      block[static_cast<size_t>(i)] *= slot.dora[static_cast<size_t>(embedding ? i % columns : row + i / columns)];
    }
    FromF32(block.data(), count, weight.dtype, merged.data() + row * columns * bytes);
  }
  RETURN_IF_ERROR(CheckFinite(merged, weight.dtype, weight.rows * columns));
  return merged;
}

absl::StatusOr<std::vector<std::byte>> MergedNorm(const BaseTable& vector, const ImageSlot& slot, int64_t row) {
  LORAD_CHECK_EQ(slot.rows.shape[1], vector.rows);
  const std::vector<float> values = Floats(slot.rows);
  std::vector<std::byte> merged(static_cast<size_t>(vector.rows * SizeBytes(vector.dtype)));
  FromF32(values.data() + row * vector.rows, vector.rows, vector.dtype, merged.data());
  RETURN_IF_ERROR(CheckFinite(merged, vector.dtype, vector.rows));
  return merged;
}

absl::StatusOr<std::vector<std::byte>> MergedBias(const BaseTable& bias, const ImageSlot& slot) {
  std::vector<float> values(static_cast<size_t>(bias.rows));
  ToF32(bias.dtype, bias.data, bias.rows, values.data());
  if (slot.bias.present()) values = Floats(slot.bias);
  if (slot.delta_bias.present()) {
    const std::vector<float> delta = Floats(slot.delta_bias);
    for (size_t i = 0; i < values.size(); ++i) values[i] += slot.scale * delta[i];
  }
  std::vector<std::byte> merged(values.size() * SizeBytes(bias.dtype));
  FromF32(values.data(), bias.rows, bias.dtype, merged.data());
  RETURN_IF_ERROR(CheckFinite(merged, bias.dtype, bias.rows));
  return merged;
}

}  // namespace lorad
