#include "model/ops/add_positions.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status AddPositions(const AddPositionsArgs& args) {
  const ArgCheck check("AddPositions");
  RETURN_IF_ERROR(check.Floating("table", args.table));
  const at::ScalarType dtype = args.table.scalar_type();
  RETURN_IF_ERROR(check.Tensor("table", args.table, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Contiguous("positions", args.positions, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {args.positions.size(0), args.table.size(1)}));
  RETURN_IF_ERROR(check.SameDevice(args.table, "positions", args.positions));
  RETURN_IF_ERROR(check.SameDevice(args.table, "y", args.y));
  return Dispatch("AddPositions", args.table, &cpu::AddPositions, InstalledCudaOps().add_positions, args);
}

}  // namespace lorad
