#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu/f32_panels.h"
#include "model/ops/cpu/panel_kernels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

constexpr int64_t kBytesPerRange = 1 << 16;        // copied by one thread
constexpr int64_t kPackedBytesPerRange = 1 << 13;  // the same: of a panel, 16 times as many are read

}  // namespace

absl::Status Embedding(const EmbeddingArgs& args) {
  const at::Tensor& table = args.table.weight();
  const int64_t rows = args.ids.size(0), vocab = args.table.out_features();
  const int32_t* ids = args.ids.const_data_ptr<int32_t>();
  for (int64_t r = 0; r < rows; ++r) {
    if (ids[r] < 0 || ids[r] >= vocab) {
      return ArgCheck("Embedding").Error("ids", absl::StrCat(ids[r], " in row ", r), absl::StrCat("0 to ", vocab - 1));
    }
  }
  const int64_t element = table.element_size(), in = args.table.in_features();
  const int64_t row_bytes = in * element, y_stride = args.y.stride(0) * element;
  const int64_t table_stride = args.table.packed() ? 0 : table.stride(0) * element;
  const char* stored = static_cast<const char*>(table.const_data_ptr());
  char* y = static_cast<char*>(args.y.mutable_data_ptr());
  const int64_t grain = (args.table.packed() ? kPackedBytesPerRange : kBytesPerRange) / std::max<int64_t>(1, row_bytes);
  ParallelFor(rows, std::max<int64_t>(1, grain), [&](int64_t r, int64_t end) {
    for (; r < end; ++r) {
      char* const to = y + r * y_stride;
      if (!args.table.packed()) {
        std::memcpy(to, stored + ids[r] * table_stride, static_cast<size_t>(row_bytes));
      } else if (table.scalar_type() == at::kFloat) {
        UnpackF32PanelColumn(reinterpret_cast<const float*>(stored), ids[r], in, reinterpret_cast<float*>(to));
      } else {
        UnpackPanelColumn(reinterpret_cast<const uint16_t*>(stored), ids[r], in, reinterpret_cast<uint16_t*>(to));
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace lorad::cpu
