#include "adapters/ops/replaced_rows.h"

#include "adapters/ops/check_segments.h"
#include "adapters/ops/cpu_ops.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status ReplaceEmbeddingRows(const ReplaceEmbeddingRowsArgs& args) {
  const ArgCheck check("ReplaceEmbeddingRows");
  RETURN_IF_ERROR(CheckEmbeddingRows(check, args.ids, args.y, args.rows, args.num_slots));
  if (args.rows.base_only()) return absl::OkStatus();
  if (args.slots == nullptr) return check.Error("slots", "none", "a slot table");
  return Dispatch("ReplaceEmbeddingRows", args.y, &cpu::ReplaceEmbeddingRows, InstalledCudaOps().replace_embedding_rows,
                  args);
}

absl::Status ReplaceHeadRows(const ReplaceHeadRowsArgs& args) {
  const ArgCheck check("ReplaceHeadRows");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  RETURN_IF_ERROR(check.Tensor("x", args.x, args.x.scalar_type(), {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, args.x.scalar_type(), {args.x.size(0), ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "y", args.y));
  RETURN_IF_ERROR(CheckSegments(check, args.rows, args.x.size(0), args.num_slots));
  if (args.rows.base_only()) return absl::OkStatus();
  if (args.slots == nullptr) return check.Error("slots", "none", "a slot table");
  return Dispatch("ReplaceHeadRows", args.y, &cpu::ReplaceHeadRows, InstalledCudaOps().replace_head_rows, args);
}

}  // namespace lorad
