#include "model/ops/paged_attention.h"

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {

absl::Status PagedAttention(const PagedAttentionArgs& args) {
  const ArgCheck check("PagedAttention");
  const KvLayout& layout = args.kv.layout;
  RETURN_IF_ERROR(check.Floating("q", args.q));
  const at::ScalarType dtype = args.q.scalar_type();
  RETURN_IF_ERROR(check.Tensor("q", args.q, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  const int64_t rows = args.q.size(0), columns = args.num_heads * layout.head_dim;
  if (args.q.size(1) < columns) return check.Error("q", ShapeOf(args.q), absl::StrCat(columns, " columns or more"));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {rows, columns}));
  RETURN_IF_ERROR(check.Contiguous("positions", args.positions, at::kInt, {rows}));
  RETURN_IF_ERROR(check.Contiguous("cu_rows", args.cu_rows, at::kInt, {ArgCheck::kAny}));
  if (args.cu_rows.size(0) < 1) return check.Error("cu_rows", ShapeOf(args.cu_rows), "[S+1]");
  RETURN_IF_ERROR(
      check.Contiguous("block_table", args.block_table, at::kInt, {args.cu_rows.size(0) - 1, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.q, "y", args.y));
  RETURN_IF_ERROR(check.SameDevice(args.q, "positions", args.positions));
  RETURN_IF_ERROR(check.SameDevice(args.q, "cu_rows", args.cu_rows));
  RETURN_IF_ERROR(check.SameDevice(args.q, "block_table", args.block_table));
  if (args.kv.arena == nullptr || args.kv.page_bytes <= 0) return check.Error("kv", "no arena", "a page pool's");
  const DType wanted = dtype == at::kFloat ? DType::kF32 : DType::kBF16;
  if (layout.dtype != wanted) return check.Error("kv", Name(layout.dtype), Name(wanted));
  if (layout.num_kv_heads <= 0 || args.num_heads % layout.num_kv_heads != 0) {
    return check.Error("num_heads", absl::StrCat(args.num_heads),
                       absl::StrCat("a multiple of ", layout.num_kv_heads, " KV heads"));
  }
  if (args.layer < 0 || args.layer >= layout.num_layers) {
    return check.Error("layer", absl::StrCat(args.layer), absl::StrCat("below ", layout.num_layers));
  }
  if (args.window_tokens < 0) return check.Error("window_tokens", absl::StrCat(args.window_tokens), "0 or more");
  if (!(args.softcap >= 0)) return check.Error("softcap", absl::StrCat(args.softcap), "0 or more");
  return Dispatch("PagedAttention", args.q, &cpu::PagedAttention, InstalledCudaOps().paged_attention, args);
}

}  // namespace lorad
