#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/kv/kv_layout.h"

namespace lorad {

// For each row: optional RMS norm of every q and k head (before rope, as Qwen3), half-split rotation of the first
// rotary_dim of every q and k head, then k and v are written to the KV cache of `layer` at kv_slots[r].
//
// qkv [T, (Hq + 2 Hkv) * D], columns q | k | v; its q part is rotated in place. kv_slots [T] int32. positions [T]
// int32: each row's line of cos, sin [max_positions, rotary_dim / 2], which are in the model's dtype. q_norm, k_norm
// [D] or undefined; both in the model's dtype or both f32, as RmsNorm's weight. Errors: InvalidArgument for shapes, a
// position past the table, a negative slot.
struct RopeKvWriteArgs {
  at::Tensor& qkv;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  const at::Tensor& positions;
  const at::Tensor& cos;
  const at::Tensor& sin;
  const at::Tensor& q_norm;
  const at::Tensor& k_norm;
  double norm_eps;
  const at::Tensor& kv_slots;
  int64_t layer;
  const KvView& kv;
};
absl::Status RopeKvWrite(const RopeKvWriteArgs& args);

}  // namespace lorad
