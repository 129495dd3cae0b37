#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {

absl::Status Embedding(const EmbeddingArgs& args) {
  const int64_t rows = args.ids.size(0), vocab = args.table.size(0);
  const int32_t* ids = args.ids.const_data_ptr<int32_t>();
  for (int64_t r = 0; r < rows; ++r) {
    if (ids[r] < 0 || ids[r] >= vocab) {
      return ArgCheck("Embedding").Error("ids", absl::StrCat(ids[r], " in row ", r), absl::StrCat("0 to ", vocab - 1));
    }
  }
  const int64_t element = args.table.element_size();
  const int64_t row_bytes = args.table.size(1) * element;
  const int64_t table_stride = args.table.stride(0) * element, y_stride = args.y.stride(0) * element;
  const char* table = static_cast<const char*>(args.table.const_data_ptr());
  char* y = static_cast<char*>(args.y.mutable_data_ptr());
  ParallelFor(rows, std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, row_bytes)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(y + r * y_stride, table + ids[r] * table_stride, static_cast<size_t>(row_bytes));
    }
  });
  return absl::OkStatus();
}

}  // namespace lorad::cpu
