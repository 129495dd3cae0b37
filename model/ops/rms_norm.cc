#include "model/ops/rms_norm.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status RmsNorm(const RmsNormArgs& args) {
  const ArgCheck check("RmsNorm");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  const at::ScalarType dtype = args.x.scalar_type();
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.NormWeight("weight", args.weight, dtype, args.x.size(1)));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {args.x.size(0), args.x.size(1)}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "weight", args.weight));
  RETURN_IF_ERROR(check.SameDevice(args.x, "y", args.y));
  if (args.residual != nullptr) {
    RETURN_IF_ERROR(check.Tensor("residual", *args.residual, dtype, {args.x.size(0), args.x.size(1)}));
    RETURN_IF_ERROR(check.SameDevice(args.x, "residual", *args.residual));
  }
  return Dispatch("RmsNorm", args.x, &cpu::RmsNorm, InstalledCudaOps().rms_norm, args);
}

}  // namespace lorad
