#include "absl/strings/str_cat.h"
#include "adapters/ops/check_segments.h"
#include "adapters/ops/cpu_ops.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args) {
  const ArgCheck check("SegmentedEmbedding");
  RETURN_IF_ERROR(CheckEmbeddingRows(check, args.ids, args.y, args.rows, args.num_slots));
  if (args.rows.base_only()) return absl::OkStatus();
  if (args.slots == nullptr) return check.Error("slots", "none", "a slot table");
  return Dispatch("SegmentedEmbedding", args.y, &cpu::SegmentedEmbedding, InstalledCudaOps().segmented_embedding, args);
}

}  // namespace lorad
