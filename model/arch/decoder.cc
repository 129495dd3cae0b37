#include "model/arch/decoder.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lorad {
namespace {

constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 1024;

void RequireDivides(ConfigFields& fields, const char* what, int64_t value, const char* by, int64_t divisor) {
  if (divisor > 0 && value % divisor == 0) return;
  fields.Fail(
      absl::InvalidArgumentError(absl::StrCat(fields.Describe(what), "; not a multiple of ", by, ": ", divisor)));
}

DType ReadDType(ConfigFields& fields) {
  const char* key = fields.Has("dtype") ? "dtype" : "torch_dtype";
  std::string name = fields.String(key, "float32");
  if (name.rfind("torch.", 0) == 0) name = name.substr(6);
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  fields.Refuse(key, "float32, bfloat16 and float16 are");
  return DType::kF32;
}

}  // namespace

std::optional<Activation> ActivationNamed(std::string_view name) {
  static constexpr std::pair<std::string_view, Activation> kNames[] = {
      {"silu", Activation::kSilu},         {"swish", Activation::kSilu},
      {"gelu_new", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"gelu", Activation::kGelu},         {"relu", Activation::kRelu},
  };
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
  }
  return std::nullopt;
}

Activation ReadActivation(ConfigFields& fields, const char* key, const char* absent) {
  const std::optional<Activation> activation = ActivationNamed(fields.String(key, absent));
  if (!activation.has_value()) fields.Refuse(key, absl::StrCat(kActivationNames, " are"));
  return activation.value_or(Activation::kSilu);
}

void ReadSizes(ConfigFields& fields, const DecoderDefaults& absent, ModelConfig* config) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (fields.Has(key)) fields.Refuse(key, "weights must be float32, float16 or bfloat16");
  }
  config->checkpoint_dtype = ReadDType(fields);
  config->vocab_size = fields.RequiredInt("vocab_size", 1, kMaxVocab);
  config->hidden_size = fields.RequiredInt("hidden_size", 1, kMaxWidth);
  config->embedding_size = config->hidden_size;
  config->num_layers = fields.RequiredInt("num_hidden_layers", 1, kMaxLayers);
  config->num_heads = fields.RequiredInt("num_attention_heads", 1, kMaxHeads);
  int64_t absent_head_dim = absent.head_dim;
  if (!fields.Has("head_dim") && absent_head_dim == 0) {
    RequireDivides(fields, "hidden_size", config->hidden_size, "num_attention_heads", config->num_heads);
    absent_head_dim = config->hidden_size / config->num_heads;
  }
  config->head_dim = fields.Int("head_dim", 1, kMaxHeadDim, absent_head_dim);
  if (config->head_dim % 2 != 0 || config->head_dim > kMaxHeadDim) {
    fields.Fail(absl::InvalidArgumentError(absl::StrCat(fields.Describe("head_dim"), "; head_dim: ", config->head_dim,
                                                        "; must be even, at most ", kMaxHeadDim)));
  }
  config->attention_scale = 1.0 / std::sqrt(static_cast<double>(config->head_dim));
  config->max_context_tokens = fields.Int("max_position_embeddings", 1, kMaxContextTokens, absent.max_positions);
}

void ReadDecoderFields(ConfigFields& fields, const DecoderDefaults& absent, ModelConfig* config) {
  ReadSizes(fields, absent, config);
  config->intermediate_size = fields.RequiredInt("intermediate_size", 1, kMaxWidth);
  config->norm_eps = fields.Number("rms_norm_eps", 0.0, 1.0, absent.norm_eps);
  config->activation = ReadActivation(fields, absent.activation_key, absent.activation);
  if (fields.String(absent.activation_key, absent.activation) != absent.activation) {
    fields.Refuse(absent.activation_key, absl::StrCat(absent.activation, " is"));
  }
  config->tied_embeddings = fields.Bool("tie_word_embeddings", absent.tied_embeddings);
}

void ReadKvHeads(ConfigFields& fields, bool defaults_to_heads, ModelConfig* config) {
  const bool spelled_null = fields.json().contains("num_key_value_heads");
  config->num_kv_heads = !fields.Has("num_key_value_heads") && (defaults_to_heads || spelled_null)
                             ? config->num_heads
                             : fields.RequiredInt("num_key_value_heads", 1, kMaxHeads);
  RequireDivides(fields, "num_attention_heads", config->num_heads, "num_key_value_heads", config->num_kv_heads);
}

void SetWindow(int64_t window_tokens, ModelConfig* config) {
  config->window_tokens.assign(static_cast<size_t>(config->num_layers), window_tokens);
}

void ReadQwenWindows(ConfigFields& fields, ModelConfig* config) {
  const bool used = fields.Bool("use_sliding_window", false);
  // Absent, HF takes 4096; null is no window at all.
  const bool spelled_null = fields.json().contains("sliding_window") && !fields.Has("sliding_window");
  const int64_t window = used && !spelled_null ? fields.Int("sliding_window", 1, kMaxContextTokens, 4096) : 0;
  const int64_t first_layer = fields.Int("max_window_layers", 0, INT32_MAX, 28);
  SetWindow(0, config);
  if (fields.Has("layer_types")) {
    ReadLayerTypes(fields, window, config);
    return;
  }
  for (int64_t layer = first_layer; layer < config->num_layers; ++layer) config->window_tokens[layer] = window;
}

void ReadLayerTypes(ConfigFields& fields, int64_t window, ModelConfig* config) {
  const std::vector<std::string> types = fields.Strings("layer_types");
  if (static_cast<int64_t>(types.size()) != config->num_layers) {
    fields.Fail(absl::InvalidArgumentError(absl::StrCat(fields.Describe("layer_types"), "; entries: ", types.size(),
                                                        "; num_hidden_layers: ", config->num_layers)));
    return;
  }
  SetWindow(0, config);
  for (size_t layer = 0; layer < types.size(); ++layer) {
    if (types[layer] == "full_attention") continue;
    if (types[layer] != "sliding_attention") {
      fields.Refuse("layer_types", "full_attention and sliding_attention are");
    } else if (window == 0) {
      fields.Fail(absl::InvalidArgumentError(
          absl::StrCat(fields.Describe("layer_types"), "; sliding_attention needs a sliding_window that is used")));
    }
    config->window_tokens[layer] = window;
  }
}

void ReadAlternatingWindows(ConfigFields& fields, int64_t absent_window, int64_t full_every, ModelConfig* config) {
  const int64_t window = fields.Int("sliding_window", 1, kMaxContextTokens, absent_window);
  if (fields.json().contains("sliding_window") && !fields.Has("sliding_window")) {
    fields.Fail(absl::InvalidArgumentError(absl::StrCat(fields.Describe("sliding_window"), "; expected: a number")));
  }
  if (fields.Has("layer_types")) {
    ReadLayerTypes(fields, window, config);
    return;
  }
  SetWindow(window, config);
  for (int64_t layer = full_every - 1; layer < config->num_layers; layer += full_every) {
    config->window_tokens[layer] = 0;
  }
}

std::vector<int32_t> DenseLayers(const ModelConfig& config) {
  const std::vector<int32_t>& routed = config.routed.layers;  // ascending
  std::vector<int32_t> dense;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!std::binary_search(routed.begin(), routed.end(), layer)) dense.push_back(layer);
  }
  return dense;
}

void AddLinear(WeightName weight, WeightName bias, bool has_bias, const std::string& module, int64_t out, int64_t in,
               std::vector<WeightRow>* rows) {
  rows->push_back({weight, absl::StrCat(module, ".weight"), {out, in}});
  if (has_bias) rows->push_back({bias, absl::StrCat(module, ".bias"), {out}});
}

void AddLayerNorm(WeightName weight, WeightName bias, const std::string& module, int64_t width,
                  std::vector<WeightRow>* rows) {
  rows->push_back({weight, absl::StrCat(module, ".weight"), {width}});
  rows->push_back({bias, absl::StrCat(module, ".bias"), {width}});
}

std::vector<WeightRow> DecoderWeights(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q_width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  std::vector<WeightRow> rows;
  const auto add = [&](WeightName name, const char* stored_name, std::vector<int64_t> shape) {
    rows.push_back({name, stored_name, std::move(shape)});
  };
  const auto add_linear = [&](WeightName weight, WeightName bias, bool has_bias, const char* module, int64_t out,
                              int64_t in) {
    AddLinear(weight, bias, has_bias, absl::StrCat("model.layers.{}.", module), out, in, &rows);
  };
  using W = WeightName;
  add(W::kEmbedTokens, "model.embed_tokens.weight", {config.vocab_size, hidden});
  add(W::kInputNorm, "model.layers.{}.input_layernorm.weight", {hidden});
  if (config.fused_projections) {
    add(W::kQkvProj, "model.layers.{}.self_attn.qkv_proj.weight", {q_width + 2 * kv_width, hidden});
  } else {
    add_linear(W::kQProj, W::kQBias, config.qkv_bias, "self_attn.q_proj", q_width, hidden);
    add_linear(W::kKProj, W::kKBias, config.qkv_bias, "self_attn.k_proj", kv_width, hidden);
    add_linear(W::kVProj, W::kVBias, config.qkv_bias, "self_attn.v_proj", kv_width, hidden);
  }
  add_linear(W::kOProj, W::kOBias, config.o_bias, "self_attn.o_proj", hidden, q_width);
  if (config.qk_norm) {
    add(W::kQNorm, "model.layers.{}.self_attn.q_norm.weight", {config.head_dim});
    add(W::kKNorm, "model.layers.{}.self_attn.k_norm.weight", {config.head_dim});
  }
  if (config.sandwich_norms) {
    add(W::kAttentionOutNorm, "model.layers.{}.post_attention_layernorm.weight", {hidden});
    add(W::kPostAttentionNorm, "model.layers.{}.pre_feedforward_layernorm.weight", {hidden});
    add(W::kMlpOutNorm, "model.layers.{}.post_feedforward_layernorm.weight", {hidden});
  } else {
    add(W::kPostAttentionNorm, "model.layers.{}.post_attention_layernorm.weight", {hidden});
  }
  const std::vector<int32_t> dense = DenseLayers(config);
  const size_t first_dense_row = rows.size();
  if (!dense.empty()) {
    if (config.fused_projections) {
      add(W::kGateUpProj, "model.layers.{}.mlp.gate_up_proj.weight", {2 * config.intermediate_size, hidden});
    } else {
      add_linear(W::kGateProj, W::kGateBias, config.mlp_bias, "mlp.gate_proj", config.intermediate_size, hidden);
      add_linear(W::kUpProj, W::kUpBias, config.mlp_bias, "mlp.up_proj", config.intermediate_size, hidden);
    }
    add_linear(W::kDownProj, W::kDownBias, config.mlp_bias, "mlp.down_proj", hidden, config.intermediate_size);
  }
  for (size_t i = first_dense_row; i < rows.size(); ++i) rows[i].layers = dense;
  add(W::kFinalNorm, "model.norm.weight", {hidden});
  add(W::kLmHead, "lm_head.weight", {config.vocab_size, hidden});
  rows.back().optional = config.tied_embeddings;
  return rows;
}

}  // namespace lorad
