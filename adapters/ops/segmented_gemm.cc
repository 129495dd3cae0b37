#include "adapters/ops/segmented_gemm.h"

#include "absl/strings/str_cat.h"
#include "adapters/ops/check_segments.h"
#include "adapters/ops/cpu_ops.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status SegmentedGemm(const SegmentedGemmArgs& args) {
  const ArgCheck check("SegmentedGemm");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  const at::ScalarType dtype = args.x.scalar_type();
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  const int64_t y_rows = args.rows.input_rows.empty() ? args.x.size(0) : args.rows.rows();
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {y_rows, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "y", args.y));
  RETURN_IF_ERROR(CheckSegments(check, args.rows, y_rows, args.num_slots));
  RETURN_IF_ERROR(CheckInputRows(check, args.rows, args.x.size(0)));
  for (const SegmentedGemmPart& part : args.parts) {
    if (part.first_column < 0 || part.columns < 0 || part.first_column + part.columns > args.y.size(1)) {
      return check.Error("parts", absl::StrCat("columns ", part.first_column, " to ", part.first_column + part.columns),
                         absl::StrCat("0 to ", args.y.size(1)));
    }
    if (part.slots == nullptr && !args.rows.terms.empty()) return check.Error("parts", "no slots", "a slot table");
    RETURN_IF_ERROR(CheckExperts(check, args.rows, part.slots));
  }
  if (args.rows.base_only()) return absl::OkStatus();
  return Dispatch("SegmentedGemm", args.x, &cpu::SegmentedGemm, InstalledCudaOps().segmented_gemm, args);
}

}  // namespace lorad
