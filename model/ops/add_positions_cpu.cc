#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"
#include "model/ops/cpu_ops.h"

namespace lorad::cpu {
namespace {

template <typename T>
void Run(const AddPositionsArgs& args, const int32_t* positions) {
  const int64_t n = args.y.size(1), table_stride = args.table.stride(0), y_stride = args.y.stride(0);
  const T* table = static_cast<const T*>(args.table.const_data_ptr());
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  ParallelFor(args.y.size(0), std::max<int64_t>(1, (1 << 14) / n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      AddRow(table + (positions[r] + args.offset) * table_stride, n, y + r * y_stride);
    }
  });
}

}  // namespace

absl::Status AddPositions(const AddPositionsArgs& args) {
  const int32_t* positions = args.positions.const_data_ptr<int32_t>();
  const int64_t limit = args.table.size(0) - args.offset;
  for (int64_t r = 0; r < args.positions.size(0); ++r) {
    if (positions[r] < 0 || positions[r] >= limit) {
      return ArgCheck("AddPositions")
          .Error("positions", absl::StrCat(positions[r], " in row ", r), absl::StrCat("0 to ", limit - 1));
    }
  }
  if (args.y.numel() == 0) return absl::OkStatus();
  if (args.y.scalar_type() == at::kFloat) {
    Run<float>(args, positions);
  } else {
    Run<uint16_t>(args, positions);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
