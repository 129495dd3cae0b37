// The operators' own tests compute on tensors of the CPU: under the names of the CPU forms, whose files therefore stay
// in their archive, each call here goes to the device with copies of its arguments, and what is written comes back.
#include <algorithm>
#include <vector>

#include "model/ops/cpu_ops.h"
#include "tests/device/device_copies.h"

namespace lorad::cpu {
namespace {

// The largest of int32 [n], 0 without any.
int64_t Largest(const at::Tensor& ints) {
  const int32_t* const begin = ints.const_data_ptr<int32_t>();
  return ints.numel() == 0 ? 0 : std::max<int64_t>(0, *std::max_element(begin, begin + ints.numel()));
}

}  // namespace

absl::Status Activate(const ActivateArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  return on.Back(lorad::Activate({on.Of(args.x), args.activation, y}));
}

absl::Status AddPositions(const AddPositionsArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  return on.Back(lorad::AddPositions({on.Of(args.positions), on.Of(args.table), args.offset, y}));
}

absl::Status CombineExperts(const CombineExpertsArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  return on.Back(lorad::CombineExperts({on.Of(args.x), args.pairs, args.weights, on.Of(args.shared),
                                        on.Of(args.shared_logits), y, args.rows, args.add}));
}

absl::Status Embedding(const EmbeddingArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  return on.Back(lorad::Embedding({on.Of(args.ids), on.Of(args.table), y}));
}

absl::Status GatedActivation(const GatedActivationArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  return on.Back(lorad::GatedActivation({on.Of(args.gate_up), args.activation, y}));
}

absl::Status LayerNorm(const LayerNormArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y), residual = args.residual == nullptr ? at::Tensor() : on.Of(*args.residual);
  return on.Back(lorad::LayerNorm({on.Of(args.x), on.Of(args.weight), on.Of(args.bias), args.eps,
                                   args.residual == nullptr ? nullptr : &residual, y}));
}

absl::Status PagedAttention(const PagedAttentionArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  return on.Back(lorad::PagedAttention({on.Of(args.q), args.num_heads, on.Of(args.positions), on.Of(args.cu_rows),
                                        on.Of(args.block_table), args.layer, args.window_tokens, args.scale,
                                        args.softcap, on.Of(args.kv, Largest(args.block_table)), y}));
}

absl::Status PutDrawnTokens(const PutDrawnTokensArgs& args) {
  DeviceCopies on;
  at::Tensor ids = on.Of(args.ids);
  return on.Back(lorad::PutDrawnTokens({on.Of(args.drawn), ids}));
}

absl::Status RmsNorm(const RmsNormArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y), residual = args.residual == nullptr ? at::Tensor() : on.Of(*args.residual);
  return on.Back(
      lorad::RmsNorm({on.Of(args.x), on.Of(args.weight), args.eps, args.residual == nullptr ? nullptr : &residual, y}));
}

absl::Status RopeKvWrite(const RopeKvWriteArgs& args) {
  DeviceCopies on;
  at::Tensor qkv = on.Of(args.qkv);
  return on.Back(
      lorad::RopeKvWrite({qkv, args.num_heads, args.num_kv_heads, args.head_dim, on.Of(args.positions), on.Of(args.cos),
                          on.Of(args.sin), on.Of(args.q_norm), on.Of(args.k_norm), args.norm_eps, on.Of(args.kv_slots),
                          args.layer, on.Of(args.kv, Largest(args.kv_slots) / kKvBlockTokens)}));
}

absl::Status RouteTopK(const RouteTopKArgs& args) {
  DeviceCopies on;
  at::Tensor experts = on.Of(args.experts), weights = on.Of(args.weights);
  return on.Back(lorad::RouteTopK({on.Of(args.logits), args.renormalise, experts, weights}));
}

}  // namespace lorad::cpu
