#include "model/ops/activate.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status Activate(const ActivateArgs& args) {
  const ArgCheck check("Activate");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  const at::ScalarType dtype = args.x.scalar_type();
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {args.x.size(0), args.x.size(1)}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "y", args.y));
  return Dispatch("Activate", args.x, &cpu::Activate, InstalledCudaOps().activate, args);
}

}  // namespace lorad
