#include "absl/strings/str_cat.h"
#include "adapters/ops/check_segments.h"
#include "adapters/ops/cpu_ops.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

// Nothing deals the rows of an embedding to experts.
absl::Status CheckOnePairEach(const ArgCheck& check, const RowSegments& rows, const SlotWeights* slots) {
  for (const SlotTerm& term : rows.terms) {
    const SlotWeights& w = slots[term.slot];
    if (w.rank <= 0) continue;
    if (w.experts > 1) return check.Error("slots", absl::StrCat(w.experts, " experts in slot ", term.slot), "1");
    if (w.routes()) return check.Error("slots", absl::StrCat("a router in slot ", term.slot), "none");
  }
  return CheckExperts(check, rows, slots);
}

}  // namespace

absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args) {
  const ArgCheck check("SegmentedEmbedding");
  RETURN_IF_ERROR(CheckEmbeddingRows(check, args.ids, args.y, args.rows, args.num_slots));
  if (args.rows.base_only()) return absl::OkStatus();
  if (args.slots == nullptr) return check.Error("slots", "none", "a slot table");
  RETURN_IF_ERROR(CheckOnePairEach(check, args.rows, args.slots));
  return Dispatch("SegmentedEmbedding", args.y, &cpu::SegmentedEmbedding, InstalledCudaOps().segmented_embedding, args);
}

}  // namespace lorad
