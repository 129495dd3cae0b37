#include "model/ops/rope_kv_write.h"

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

absl::Status CheckCache(const ArgCheck& check, const RopeKvWriteArgs& args) {
  const KvLayout& layout = args.kv.layout;
  const DType wanted = args.qkv.scalar_type() == at::kFloat ? DType::kF32 : DType::kBF16;
  if (args.kv.arena == nullptr || args.kv.page_bytes <= 0) return check.Error("kv", "no arena", "a page pool's");
  if (layout.dtype != wanted) return check.Error("kv", Name(layout.dtype), Name(wanted));
  if (layout.head_dim != args.head_dim || layout.num_kv_heads != args.num_kv_heads) {
    return check.Error("kv", absl::StrCat(layout.num_kv_heads, " heads of ", layout.head_dim),
                       absl::StrCat(args.num_kv_heads, " heads of ", args.head_dim));
  }
  if (args.layer < 0 || args.layer >= layout.num_layers) {
    return check.Error("layer", absl::StrCat(args.layer), absl::StrCat("below ", layout.num_layers));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RopeKvWrite(const RopeKvWriteArgs& args) {
  const ArgCheck check("RopeKvWrite");
  RETURN_IF_ERROR(check.Floating("qkv", args.qkv));
  const at::ScalarType dtype = args.qkv.scalar_type();
  const int64_t columns = (args.num_heads + 2 * args.num_kv_heads) * args.head_dim;
  RETURN_IF_ERROR(check.Tensor("qkv", args.qkv, dtype, {ArgCheck::kAny, columns}));
  const int64_t rows = args.qkv.size(0);
  RETURN_IF_ERROR(check.Contiguous("positions", args.positions, at::kInt, {rows}));
  RETURN_IF_ERROR(check.Contiguous("kv_slots", args.kv_slots, at::kInt, {rows}));
  RETURN_IF_ERROR(check.Contiguous("cos", args.cos, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Contiguous("sin", args.sin, dtype, {args.cos.size(0), args.cos.size(1)}));
  if (2 * args.cos.size(1) > args.head_dim) {
    return check.Error("cos", ShapeOf(args.cos), absl::StrCat("half of head_dim: ", args.head_dim));
  }
  if (args.q_norm.defined()) RETURN_IF_ERROR(check.NormWeight("q_norm", args.q_norm, dtype, args.head_dim));
  if (args.k_norm.defined()) RETURN_IF_ERROR(check.NormWeight("k_norm", args.k_norm, dtype, args.head_dim));
  if (args.q_norm.defined() && args.k_norm.defined() && args.q_norm.scalar_type() != args.k_norm.scalar_type()) {
    return check.Error("k_norm", ShapeOf(args.k_norm), absl::StrCat("as q_norm: ", ShapeOf(args.q_norm)));
  }
  RETURN_IF_ERROR(check.SameDevice(args.qkv, "positions", args.positions));
  RETURN_IF_ERROR(check.SameDevice(args.qkv, "kv_slots", args.kv_slots));
  RETURN_IF_ERROR(check.SameDevice(args.qkv, "cos", args.cos));
  RETURN_IF_ERROR(CheckCache(check, args));
  return Dispatch("RopeKvWrite", args.qkv, &cpu::RopeKvWrite, InstalledCudaOps().rope_kv_write, args);
}

}  // namespace lorad
