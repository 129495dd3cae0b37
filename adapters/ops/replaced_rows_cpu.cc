#include <algorithm>
#include <cstring>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "absl/strings/str_cat.h"
#include "adapters/ops/cpu_ops.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/linear.h"

namespace lorad::cpu {
namespace {

// Which of the adapter's rows stands for this token; -1: none.
int64_t FindRow(const SlotWeights& w, int32_t token) {
  if (w.row_ids == nullptr) return token < w.num_rows ? token : -1;
  const int32_t* const end = w.row_ids + w.num_rows;
  const int32_t* const found = std::lower_bound(w.row_ids, end, token);
  return found != end && *found == token ? found - w.row_ids : -1;
}

// Calls fn(first_row, rows, weights) for every term of the step that replaces something.
template <typename Fn>
absl::Status ForEachReplacement(const RowSegments& rows, const SlotWeights* slots, const Fn& fn) {
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const int64_t first = rows.starts[g], count = rows.starts[g + 1] - first;
    for (int32_t t = rows.term_starts[g]; count > 0 && t < rows.term_starts[g + 1]; ++t) {
      const SlotWeights& w = slots[rows.terms[t].slot];
      if (w.replaces()) RETURN_IF_ERROR(fn(first, count, w));
    }
  }
  return absl::OkStatus();
}

template <typename T>
void Scatter(const at::Tensor& from, const int32_t* ids, int64_t first, at::Tensor& y) {
  const int64_t columns = from.size(1), stride = y.stride(0);
  T* const out = static_cast<T*>(y.mutable_data_ptr()) + first * stride;
  const T* const in = static_cast<const T*>(from.const_data_ptr());
  for (int64_t r = 0; r < from.size(0); ++r) {
    for (int64_t c = 0; c < columns; ++c) out[r * stride + (ids == nullptr ? c : ids[c])] = in[r * columns + c];
  }
}

}  // namespace

absl::Status ReplaceEmbeddingRows(const ReplaceEmbeddingRowsArgs& args) {
  const int32_t* ids = args.ids.const_data_ptr<int32_t>();
  const int64_t row_bytes = args.y.size(1) * static_cast<int64_t>(args.y.element_size());
  const int64_t stride_bytes = args.y.stride(0) * static_cast<int64_t>(args.y.element_size());
  std::byte* const y = static_cast<std::byte*>(args.y.mutable_data_ptr());
  return ForEachReplacement(args.rows, args.slots, [&](int64_t first, int64_t count, const SlotWeights& w) {
    if (w.width != args.y.size(1)) {
      return ArgCheck("ReplaceEmbeddingRows").Error("rows", absl::StrCat("width ", w.width), ShapeOf(args.y));
    }
    for (int64_t r = first; r < first + count; ++r) {
      const int64_t row = FindRow(w, ids[r]);
      if (row >= 0) std::memcpy(y + r * stride_bytes, w.rows + row * row_bytes, static_cast<size_t>(row_bytes));
    }
    return absl::OkStatus();
  });
}

absl::Status ReplaceHeadRows(const ReplaceHeadRowsArgs& args) {
  return ForEachReplacement(args.rows, args.slots, [&](int64_t first, int64_t count, const SlotWeights& w) {
    const int32_t last = w.row_ids == nullptr ? w.num_rows - 1 : w.row_ids[w.num_rows - 1];
    if (w.width != args.x.size(1) || last >= args.y.size(1)) {
      return ArgCheck("ReplaceHeadRows")
          .Error("rows", absl::StrCat("width ", w.width, ", last ", last),
                 absl::StrCat("x ", ShapeOf(args.x), ", y ", ShapeOf(args.y)));
    }
    const at::Tensor weight = at::from_blob(const_cast<std::byte*>(w.rows), {w.num_rows, w.width}, args.x.options());
    at::Tensor columns = at::empty({count, w.num_rows}, args.x.options());
    RETURN_IF_ERROR(lorad::Linear({args.x.narrow(0, first, count), LinearWeight::Prepare(weight), columns}));
    if (args.y.scalar_type() == at::kFloat) {
      Scatter<float>(columns, w.row_ids, first, args.y);
    } else {
      Scatter<uint16_t>(columns, w.row_ids, first, args.y);
    }
    return absl::OkStatus();
  });
}

}  // namespace lorad::cpu
