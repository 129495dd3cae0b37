#include "model/ops/gated_activation.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status GatedActivation(const GatedActivationArgs& args) {
  const ArgCheck check("GatedActivation");
  RETURN_IF_ERROR(check.Floating("y", args.y));
  const at::ScalarType dtype = args.y.scalar_type();
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("gate_up", args.gate_up, dtype, {args.y.size(0), 2 * args.y.size(1)}));
  RETURN_IF_ERROR(check.SameDevice(args.gate_up, "y", args.y));
  return Dispatch("GatedActivation", args.y, &cpu::GatedActivation, InstalledCudaOps().gated_activation, args);
}

}  // namespace lorad
