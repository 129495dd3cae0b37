#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/arch/architecture.h"

namespace lorad {

// What Llama and its relatives share: names of config keys and of tensors. An architecture's file sets the axes.

// Widths of the residual stream and of attention, layers, context, dtype. Without the key, head_dim is
// `absent_head_dim`, and hidden_size / heads if that is 0.
void ReadSizes(ConfigFields& fields, int64_t absent_head_dim, ModelConfig* config);

// ReadSizes, and FFN, norm, activation, tied embeddings, rope.
void ReadDecoderFields(ConfigFields& fields, int64_t absent_head_dim, ModelConfig* config);

// One of HF's names of activations.
Activation ReadActivation(ConfigFields& fields, const char* key, const char* absent);

// rope_parameters, or rope_theta and rope_scaling. `absent_partial_factor`: of partial_rotary_factor; without a value
// the architecture rotates whole heads and any other factor is refused.
void ReadRope(ConfigFields& fields, std::optional<double> absent_partial_factor, ModelConfig* config);

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

// Rows of a linear, "`module`.weight" [out, in] and, with `has_bias`, "`module`.bias" [out]; and of a layer norm.
void AddLinear(WeightName weight, WeightName bias, bool has_bias, const std::string& module, int64_t out, int64_t in,
               std::vector<WeightRow>* rows);
void AddLayerNorm(WeightName weight, WeightName bias, const std::string& module, int64_t width,
                  std::vector<WeightRow>* rows);

// Far above any model there is, and low enough that no product of sizes overflows.
inline constexpr int64_t kMaxContextTokens = int64_t{1} << 24;
inline constexpr int64_t kMaxWidth = int64_t{1} << 20;

}  // namespace lorad
