#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda/attention_kernels.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"
#include "model/ops/fast_attention_cuda.h"

// What reads and writes the KV cache.
namespace lorad::cuda {
namespace {

KvLayer LayerOf(const KvView& kv, int64_t layer) {
  const KvLayout& layout = kv.layout;
  return {kv.arena,
          kv.page_bytes,
          layout.head_offset_bytes(layer, false, 0),
          layout.head_offset_bytes(layer, true, 0),
          layout.head_bytes(),
          layout.head_dim,
          layout.num_kv_heads};
}

template <typename T, typename W>
cudaError_t RopeAs(const RopeKvWriteArgs& args) {
  const RopeRows<T> rows = {.rows = args.qkv.size(0),
                            .heads = args.num_heads,
                            .qkv = MutableRowsOf<T>(args.qkv),
                            .positions = args.positions.const_data_ptr<int32_t>(),
                            .max_positions = args.cos.size(0),
                            .half = args.cos.size(1),
                            .cos = DataOf<T>(args.cos),
                            .sin = DataOf<T>(args.sin),
                            .kv_slots = args.kv_slots.const_data_ptr<int32_t>(),
                            .norm_eps = static_cast<float>(args.norm_eps),
                            .kv = LayerOf(args.kv, args.layer)};
  return LaunchRopeKvWrite(rows, DataOf<W>(args.q_norm), DataOf<W>(args.k_norm), StreamOf(args.qkv));
}

template <typename T>
AttentionRows<T> AttentionRowsOf(const PagedAttentionArgs& args) {
  return {.rows = args.q.size(0),
          .heads = args.num_heads,
          .q = RowsOf<T>(args.q),
          .y = MutableRowsOf<T>(args.y),
          .positions = args.positions.const_data_ptr<int32_t>(),
          .cu_rows = args.cu_rows.const_data_ptr<int32_t>(),
          .sequences = args.block_table.size(0),
          .block_table = args.block_table.const_data_ptr<int32_t>(),
          .blocks_per_sequence = args.block_table.size(1),
          .window_tokens = args.window_tokens,
          .scale = static_cast<float>(args.scale),
          .softcap = static_cast<float>(args.softcap),
          .kv = LayerOf(args.kv, args.layer)};
}

}  // namespace

absl::Status RopeKvWrite(const RopeKvWriteArgs& args) {
  if (args.qkv.size(0) == 0) return absl::OkStatus();
  const at::Tensor& norm = args.q_norm.defined() ? args.q_norm : args.k_norm;
  const bool wide = norm.defined() && norm.scalar_type() == at::kFloat;
  const bool f32 = args.qkv.scalar_type() == at::kFloat;
  return StatusOf("RopeKvWrite", f32    ? RopeAs<float, float>(args)
                                 : wide ? RopeAs<__nv_bfloat16, float>(args)
                                        : RopeAs<__nv_bfloat16, __nv_bfloat16>(args));
}

absl::Status PagedAttention(const PagedAttentionArgs& args) {
  if (args.q.size(0) == 0) return absl::OkStatus();
  if (args.kv.layout.head_dim > kMaxHeadDim) {
    return ArgCheck("PagedAttention")
        .Error("head_dim", absl::StrCat(args.kv.layout.head_dim), absl::StrCat(kMaxHeadDim, " on CUDA"));
  }
  if (args.q.scalar_type() == at::kFloat) {
    return StatusOf("PagedAttention", LaunchPagedAttention(AttentionRowsOf<float>(args), StreamOf(args.q)));
  }
  const auto rows = AttentionRowsOf<__nv_bfloat16>(args);
  ASSIGN_OR_RETURN(const bool done, AttendFast(args, rows));
  return done ? absl::OkStatus() : StatusOf("PagedAttention", LaunchPagedAttention(rows, StreamOf(args.q)));
}

}  // namespace lorad::cuda
