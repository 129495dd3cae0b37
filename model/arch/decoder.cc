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

// Keys of a rope dict whose meaning we know for `type`; any other one might change the angles.
void RefuseUnknownRopeKeys(ConfigFields& rope, RopeScaling scaling) {
  for (const auto& item : rope.json().items()) {
    const std::string& key = item.key();
    const bool known = key == "rope_type" || key == "type" || key == "rope_theta" || key == "partial_rotary_factor" ||
                       (key == "factor" && scaling != RopeScaling::kNone) ||
                       (scaling == RopeScaling::kLlama3 && (key == "low_freq_factor" || key == "high_freq_factor" ||
                                                            key == "original_max_position_embeddings"));
    if (!known && !item.value().is_null()) rope.Refuse(key.c_str(), "unknown key for this rope type");
  }
}

void ReadRopeScaling(ConfigFields& rope, const ModelConfig& config, RopeConfig* out) {
  const char* type_key = rope.Has("rope_type") ? "rope_type" : "type";
  const std::string type = rope.String(type_key, "default");
  if (type == "linear") {
    out->scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    out->scaling = RopeScaling::kLlama3;
  } else if (type != "default") {
    rope.Refuse(type_key, "rope types default, linear and llama3 are");
    return;
  }
  RefuseUnknownRopeKeys(rope, out->scaling);
  if (out->scaling == RopeScaling::kNone) return;
  out->factor = rope.RequiredNumber("factor", 1e-3, 1e6);
  if (out->scaling == RopeScaling::kLinear) return;
  out->low_freq_factor = rope.RequiredNumber("low_freq_factor", 1e-3, 1e6);
  out->high_freq_factor = rope.RequiredNumber("high_freq_factor", 1e-3, 1e6);
  if (out->high_freq_factor <= out->low_freq_factor) {
    rope.Fail(absl::InvalidArgumentError(
        absl::StrCat(rope.Describe("high_freq_factor"), "; must be above low_freq_factor: ", out->low_freq_factor)));
  }
  out->original_max_positions =
      rope.Int("original_max_position_embeddings", 1, kMaxContextTokens, config.max_context_tokens);
}

// Of a head: how many coordinates are rotated.
int64_t ReadRotaryDim(ConfigFields& rope, ConfigFields& fields, std::optional<double> absent_factor, int64_t head_dim) {
  const char* key = "partial_rotary_factor";
  if (!absent_factor.has_value()) {
    for (ConfigFields* from : {&rope, &fields}) {
      if (from->Number(key, 0.0, 1.0, 1.0) != 1.0) from->Refuse(key, "this architecture rotates whole heads");
    }
    return head_dim;
  }
  const double factor = rope.Number(key, 0.0, 1.0, fields.Number(key, 0.0, 1.0, *absent_factor));
  const int64_t rotary_dim = static_cast<int64_t>(static_cast<double>(head_dim) * factor);
  if (rotary_dim % 2 != 0 || rotary_dim == 0) {
    fields.Fail(absl::InvalidArgumentError(absl::StrCat((rope.Has(key) ? rope : fields).Describe(key),
                                                        "; of head_dim: ", head_dim, " it is: ", rotary_dim,
                                                        "; must be even, above 0")));
  }
  return rotary_dim;
}

}  // namespace

// Version 5 has rope_parameters; version 4 rope_scaling (which wins when a file has both, as in HF) and rope_theta.
void ReadRope(ConfigFields& fields, std::optional<double> absent_partial_factor, ModelConfig* config) {
  const bool old_style = fields.Has("rope_scaling") && !fields.json()["rope_scaling"].empty();
  ConfigFields rope = fields.Object(old_style ? "rope_scaling" : "rope_parameters");
  const auto read_theta = [](ConfigFields& from, double absent) {
    return from.Number("rope_theta", 1.0, 1e15, absent);
  };
  config->rope.theta = read_theta(rope, read_theta(fields, 10000.0));
  config->rope.rotary_dim = ReadRotaryDim(rope, fields, absent_partial_factor, config->head_dim);
  ReadRopeScaling(rope, *config, &config->rope);
  fields.Fail(rope.status());
}

Activation ReadActivation(ConfigFields& fields, const char* key, const char* absent) {
  static constexpr std::pair<const char*, Activation> kNames[] = {
      {"silu", Activation::kSilu},         {"swish", Activation::kSilu},
      {"gelu_new", Activation::kGeluTanh}, {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"gelu", Activation::kGelu},         {"relu", Activation::kRelu},
  };
  const std::string name = fields.String(key, absent);
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
  }
  fields.Refuse(key, "silu, swish, gelu, gelu_new, gelu_pytorch_tanh and relu are");
  return Activation::kSilu;
}

void ReadSizes(ConfigFields& fields, int64_t absent_head_dim, ModelConfig* config) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (fields.Has(key)) fields.Refuse(key, "weights must be float32, float16 or bfloat16");
  }
  config->checkpoint_dtype = ReadDType(fields);
  config->vocab_size = fields.RequiredInt("vocab_size", 1, kMaxVocab);
  config->hidden_size = fields.RequiredInt("hidden_size", 1, kMaxWidth);
  config->embedding_size = config->hidden_size;
  config->num_layers = fields.RequiredInt("num_hidden_layers", 1, kMaxLayers);
  config->num_heads = fields.RequiredInt("num_attention_heads", 1, kMaxHeads);
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
  config->max_context_tokens = fields.Int("max_position_embeddings", 1, kMaxContextTokens, 2048);
}

void ReadDecoderFields(ConfigFields& fields, int64_t absent_head_dim, ModelConfig* config) {
  ReadSizes(fields, absent_head_dim, config);
  config->intermediate_size = fields.RequiredInt("intermediate_size", 1, kMaxWidth);
  config->norm_eps = fields.Number("rms_norm_eps", 0.0, 1.0, 1e-6);
  if (fields.String("hidden_act", "silu") != "silu") fields.Refuse("hidden_act", "silu is");
  config->tied_embeddings = fields.Bool("tie_word_embeddings", false);
  ReadRope(fields, /*absent_partial_factor=*/std::nullopt, config);
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
  const std::vector<std::string> types = fields.Strings("layer_types");
  if (types.empty()) {
    for (int64_t layer = first_layer; layer < config->num_layers; ++layer) config->window_tokens[layer] = window;
    return;
  }
  if (static_cast<int64_t>(types.size()) != config->num_layers) {
    fields.Fail(absl::InvalidArgumentError(absl::StrCat(fields.Describe("layer_types"), "; entries: ", types.size(),
                                                        "; num_hidden_layers: ", config->num_layers)));
    return;
  }
  for (size_t layer = 0; layer < types.size(); ++layer) {
    if (types[layer] == "full_attention") continue;
    if (types[layer] != "sliding_attention") {
      fields.Refuse("layer_types", "full_attention and sliding_attention are");
    } else if (window == 0) {
      fields.Fail(absl::InvalidArgumentError(absl::StrCat(
          fields.Describe("layer_types"), "; sliding_attention needs use_sliding_window and sliding_window")));
    }
    config->window_tokens[layer] = window;
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
  add_linear(W::kQProj, W::kQBias, config.qkv_bias, "self_attn.q_proj", q_width, hidden);
  add_linear(W::kKProj, W::kKBias, config.qkv_bias, "self_attn.k_proj", kv_width, hidden);
  add_linear(W::kVProj, W::kVBias, config.qkv_bias, "self_attn.v_proj", kv_width, hidden);
  add_linear(W::kOProj, W::kOBias, config.o_bias, "self_attn.o_proj", hidden, q_width);
  if (config.qk_norm) {
    add(W::kQNorm, "model.layers.{}.self_attn.q_norm.weight", {config.head_dim});
    add(W::kKNorm, "model.layers.{}.self_attn.k_norm.weight", {config.head_dim});
  }
  add(W::kPostAttentionNorm, "model.layers.{}.post_attention_layernorm.weight", {hidden});
  const std::vector<int32_t> dense = DenseLayers(config);
  const size_t first_dense_row = rows.size();
  if (!dense.empty()) {
    add_linear(W::kGateProj, W::kGateBias, config.mlp_bias, "mlp.gate_proj", config.intermediate_size, hidden);
    add_linear(W::kUpProj, W::kUpBias, config.mlp_bias, "mlp.up_proj", config.intermediate_size, hidden);
    add_linear(W::kDownProj, W::kDownBias, config.mlp_bias, "mlp.down_proj", hidden, config.intermediate_size);
  }
  for (size_t i = first_dense_row; i < rows.size(); ++i) rows[i].layers = dense;
  add(W::kFinalNorm, "model.norm.weight", {hidden});
  add(W::kLmHead, "lm_head.weight", {config.vocab_size, hidden});
  rows.back().optional = config.tied_embeddings;
  return rows;
}

}  // namespace lorad
