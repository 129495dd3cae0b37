#include "model/ops/route_top_k.h"

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status RouteTopK(const RouteTopKArgs& args) {
  const ArgCheck check("RouteTopK");
  RETURN_IF_ERROR(check.Floating("logits", args.logits));
  RETURN_IF_ERROR(check.Tensor("logits", args.logits, args.logits.scalar_type(), {ArgCheck::kAny, ArgCheck::kAny}));
  const int64_t rows = args.logits.size(0);
  RETURN_IF_ERROR(check.Contiguous("experts", args.experts, at::kInt, {rows, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Contiguous("weights", args.weights, at::kFloat, {rows, args.experts.size(1)}));
  if (args.experts.size(1) < 1 || args.experts.size(1) > args.logits.size(1)) {
    return check.Error("experts", absl::StrCat(args.experts.size(1), " of a row"),
                       absl::StrCat("1 to ", args.logits.size(1)));
  }
  RETURN_IF_ERROR(check.SameDevice(args.logits, "experts", args.experts));
  RETURN_IF_ERROR(check.SameDevice(args.logits, "weights", args.weights));
  return Dispatch("RouteTopK", args.logits, &cpu::RouteTopK, InstalledCudaOps().route_top_k, args);
}

}  // namespace lorad
