#pragma once

#include <vector>

#include "model/arch/architecture.h"

namespace lorad {

// What Llama and its relatives share: names of config keys and of tensors. An architecture's file sets the axes.

// Sizes, norm, activation, tied embeddings, rope, dtype. Without the key, head_dim is `absent_head_dim`, and
// hidden_size / heads if that is 0.
void ReadDecoderFields(ConfigFields& fields, int64_t absent_head_dim, ModelConfig* config);

// num_key_value_heads; when absent, as many as heads if `defaults_to_heads`, else an error.
void ReadKvHeads(ConfigFields& fields, bool defaults_to_heads, ModelConfig* config);

// use_sliding_window, sliding_window, max_window_layers and layer_types as Qwen2 and Qwen3 have them.
void ReadQwenWindows(ConfigFields& fields, ModelConfig* config);

// The same window on every layer; 0 = none.
void SetWindow(int64_t window_tokens, ModelConfig* config);

// The layers whose FFN is not routed.
std::vector<int32_t> DenseLayers(const ModelConfig& config);

// "model.layers.{}.self_attn.q_proj.weight" and so on, with the biases and norms that `config` has, without experts.
std::vector<WeightRow> DecoderWeights(const ModelConfig& config);

// Far above any model there is, and low enough that no product of sizes overflows.
inline constexpr int64_t kMaxContextTokens = int64_t{1} << 24;
inline constexpr int64_t kMaxWidth = int64_t{1} << 20;

}  // namespace lorad
