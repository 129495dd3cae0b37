#include "model/ops/embedding.h"

#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status Embedding(const EmbeddingArgs& args) {
  const ArgCheck check("Embedding");
  const at::Tensor& table = args.table.weight();
  RETURN_IF_ERROR(check.Floating("table", table));
  const at::ScalarType dtype = table.scalar_type();
  if (!args.table.packed()) {
    RETURN_IF_ERROR(check.Tensor("table", table, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  }
  RETURN_IF_ERROR(check.Contiguous("ids", args.ids, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {args.ids.size(0), args.table.in_features()}));
  RETURN_IF_ERROR(check.SameDevice(table, "ids", args.ids));
  RETURN_IF_ERROR(check.SameDevice(table, "y", args.y));
  return Dispatch("Embedding", table, &cpu::Embedding, InstalledCudaOps().embedding, args);
}

}  // namespace lorad
