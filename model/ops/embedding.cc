#include "model/ops/embedding.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status Embedding(const EmbeddingArgs& args) {
  const ArgCheck check("Embedding");
  RETURN_IF_ERROR(check.Floating("table", args.table));
  const at::ScalarType dtype = args.table.scalar_type();
  RETURN_IF_ERROR(check.Tensor("table", args.table, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Contiguous("ids", args.ids, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {args.ids.size(0), args.table.size(1)}));
  RETURN_IF_ERROR(check.SameDevice(args.table, "ids", args.ids));
  RETURN_IF_ERROR(check.SameDevice(args.table, "y", args.y));
  return Dispatch("Embedding", args.table, &cpu::Embedding, InstalledCudaOps().embedding, args);
}

}  // namespace lorad
