#include "model/ops/dequantize.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status Dequantize(const DequantizeArgs& args) {
  const ArgCheck check("Dequantize");
  const LinearWeight& weight = args.weight;
  if (!weight.quantized()) return check.Error("weight", "none", "int8, int4, fp8");
  RETURN_IF_ERROR(check.Floating("w", args.w));
  RETURN_IF_ERROR(check.Contiguous("w", args.w, args.w.scalar_type(), {weight.out_features(), weight.in_features()}));
  RETURN_IF_ERROR(check.SameDevice(weight.weight(), "w", args.w));
  return Dispatch("Dequantize", weight.weight(), &cpu::Dequantize, InstalledCudaOps().dequantize, args);
}

}  // namespace lorad
