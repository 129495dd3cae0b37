#include "model/ops/put_drawn_tokens.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status PutDrawnTokens(const PutDrawnTokensArgs& args) {
  const ArgCheck check("PutDrawnTokens");
  RETURN_IF_ERROR(check.Contiguous("ids", args.ids, at::kInt, {ArgCheck::kAny}));
  if (!args.drawn.defined() || args.drawn.scalar_type() != at::kInt || args.drawn.dim() != 1) {
    return check.Error("drawn", ShapeOf(args.drawn), "[any] Int");
  }
  RETURN_IF_ERROR(check.SameDevice(args.ids, "drawn", args.drawn));
  return Dispatch("PutDrawnTokens", args.ids, &cpu::PutDrawnTokens, InstalledCudaOps().put_drawn_tokens, args);
}

}  // namespace lorad
