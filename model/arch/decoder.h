#pragma once

#include <string>
#include <vector>

#include "model/arch/architecture.h"
#include "model/arch/rope_fields.h"

namespace lorad {

// What Llama and its relatives share: names of config keys and of tensors. An architecture's file sets the axes.

// What a file means that lacks a key: HF's defaults differ between architectures.
struct DecoderDefaults {
  int64_t head_dim = 0;  // 0: hidden_size / heads
  int64_t max_positions = 2048;
  double norm_eps = 1e-6;
  bool tied_embeddings = false;
  const char* activation = "silu";  // the only one there is
  const char* activation_key = "hidden_act";
};

// Widths of the residual stream and of attention, layers, context, dtype.
void ReadSizes(ConfigFields& fields, const DecoderDefaults& absent, ModelConfig* config);

// ReadSizes, and FFN, norm, activation, tied embeddings.
void ReadDecoderFields(ConfigFields& fields, const DecoderDefaults& absent, ModelConfig* config);

// One of HF's names of activations.
Activation ReadActivation(ConfigFields& fields, const char* key, const char* absent);

// num_key_value_heads; when absent, as many as heads if `defaults_to_heads`, else an error.
void ReadKvHeads(ConfigFields& fields, bool defaults_to_heads, ModelConfig* config);

// use_sliding_window, sliding_window, max_window_layers and layer_types as Qwen2 and Qwen3 have them.
void ReadQwenWindows(ConfigFields& fields, ModelConfig* config);

// layer_types: the window on each layer that is "sliding_attention". 0: no such layer may be.
void ReadLayerTypes(ConfigFields& fields, int64_t window_tokens, ModelConfig* config);

// sliding_window on all layers but each `full_every`th, unless layer_types says which.
void ReadAlternatingWindows(ConfigFields& fields, int64_t absent_window, int64_t full_every, ModelConfig* config);

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
