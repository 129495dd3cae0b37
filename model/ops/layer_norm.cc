#include "model/ops/layer_norm.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status LayerNorm(const LayerNormArgs& args) {
  const ArgCheck check("LayerNorm");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  const at::ScalarType dtype = args.x.scalar_type();
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  const int64_t rows = args.x.size(0), width = args.x.size(1);
  if (args.weight.defined()) {
    RETURN_IF_ERROR(check.Tensor("weight", args.weight, dtype, {width}));
    RETURN_IF_ERROR(check.SameDevice(args.x, "weight", args.weight));
  }
  if (args.bias.defined()) {
    RETURN_IF_ERROR(check.Tensor("bias", args.bias, dtype, {width}));
    RETURN_IF_ERROR(check.SameDevice(args.x, "bias", args.bias));
  }
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {rows, width}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "y", args.y));
  if (args.residual != nullptr) {
    RETURN_IF_ERROR(check.Tensor("residual", *args.residual, dtype, {rows, width}));
    RETURN_IF_ERROR(check.SameDevice(args.x, "residual", *args.residual));
  }
  return Dispatch("LayerNorm", args.x, &cpu::LayerNorm, InstalledCudaOps().layer_norm, args);
}

}  // namespace lorad
