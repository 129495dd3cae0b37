#include "model/ops/linear.h"

#include <utility>

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

LinearWeight LinearWeight::Prepare(at::Tensor weight) {
  LinearWeight prepared;
  prepared.weight_ = std::move(weight);
  return prepared;
}

absl::Status Linear(const LinearArgs& args) {
  const ArgCheck check("Linear");
  const at::Tensor& w = args.weight.weight();
  RETURN_IF_ERROR(check.Floating("weight", w));
  RETURN_IF_ERROR(check.Contiguous("weight", w, w.scalar_type(), {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("x", args.x, w.scalar_type(), {ArgCheck::kAny, w.size(1)}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, w.scalar_type(), {args.x.size(0), w.size(0)}));
  RETURN_IF_ERROR(check.SameDevice(w, "x", args.x));
  RETURN_IF_ERROR(check.SameDevice(w, "y", args.y));
  return Dispatch("Linear", w, &cpu::Linear, InstalledCudaOps().linear, args);
}

}  // namespace lorad
