#include "absl/strings/str_cat.h"
#include "adapters/ops/check_segments.h"
#include "adapters/ops/cpu_ops.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args) {
  const ArgCheck check("SegmentedEmbedding");
  RETURN_IF_ERROR(check.Contiguous("ids", args.ids, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Floating("y", args.y));
  RETURN_IF_ERROR(check.Tensor("y", args.y, args.y.scalar_type(), {args.ids.size(0), ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.ids, "y", args.y));
  RETURN_IF_ERROR(CheckSegments(check, args.rows, args.ids.size(0), args.num_slots));
  if (args.rows.base_only()) return absl::OkStatus();
  if (args.slots == nullptr) return check.Error("slots", "none", "a slot table");
  return Dispatch("SegmentedEmbedding", args.y, &cpu::SegmentedEmbedding, InstalledCudaOps().segmented_embedding, args);
}

}  // namespace lorad
