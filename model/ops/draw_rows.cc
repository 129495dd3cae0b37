#include "model/ops/draw_rows.h"

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

absl::Status OnCpu(const DrawRowsArgs&) {
  return absl::UnimplementedError("DrawRows: device: cpu; limit: a CUDA device; the CPU's form is Sample");
}

bool IsWithin(const DrawRow& row, const DrawRowsArgs& args) {
  return row.logit_row >= 0 && row.logit_row < args.logits.size(0) && row.vocab_size > 0 &&
         row.vocab_size <= args.logits.size(1) && row.top <= args.most && row.first_edit >= 0 && row.edits >= 0 &&
         row.first_edit + int64_t{row.edits} <= std::ssize(args.edits);
}

}  // namespace

absl::Status DrawRows(const DrawRowsArgs& args) {
  const ArgCheck check("DrawRows");
  RETURN_IF_ERROR(check.Tensor("logits", args.logits, at::kFloat, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Contiguous("drawn", args.drawn, at::kByte, {DrawnBytes(std::ssize(args.rows), args.most)}));
  RETURN_IF_ERROR(check.SameDevice(args.logits, "drawn", args.drawn));
  if (args.logits.size(1) > kMostDrawnLogits) {
    return check.Error("logits", absl::StrCat(args.logits.size(1), " of a row"), absl::StrCat(kMostDrawnLogits));
  }
  for (size_t i = 0; i < args.rows.size(); ++i) {
    if (!IsWithin(args.rows[i], args)) {
      return check.Error("rows", absl::StrCat("row ", i, " of logits ", args.rows[i].logit_row),
                         absl::StrCat("within ", ShapeOf(args.logits), ", ", args.edits.size(), " edits and ",
                                      args.most, " alternatives"));
    }
  }
  return Dispatch("DrawRows", args.logits, &OnCpu, InstalledCudaOps().draw_rows, args);
}

}  // namespace lorad
