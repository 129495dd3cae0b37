#include <string>
#include <vector>

#include "model/arch/decoder.h"

namespace lorad {
namespace {

constexpr double kAbsentPartialFactor = 0.5;

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadSizes(fields, {}, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/true, config);
  config->intermediate_size = fields.RequiredInt("intermediate_size", 1, kMaxWidth);
  config->norm = NormKind::kLayer;
  config->norm_eps = fields.Number("layer_norm_eps", 0.0, 1.0, 1e-5);
  config->block = BlockKind::kParallel;
  config->gated_ffn = false;
  config->activation = ReadActivation(fields, "hidden_act", "gelu_new");
  config->qkv_bias = config->o_bias = config->mlp_bias = true;
  config->tied_embeddings = fields.Bool("tie_word_embeddings", false);
  if (fields.Bool("qk_layernorm", false)) fields.Refuse("qk_layernorm", "layer norms of q and k are not computed");
  ReadPartialRope(fields, kAbsentPartialFactor, config);
  SetWindow(0, config);
}

std::vector<WeightRow> Weights(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t q_width = config.num_heads * config.head_dim;
  const int64_t kv_width = config.num_kv_heads * config.head_dim;
  std::vector<WeightRow> rows;
  using W = WeightName;
  const auto add_linear = [&](WeightName weight, WeightName bias, const char* module, int64_t out, int64_t in) {
    AddLinear(weight, bias, /*has_bias=*/true, std::string("model.layers.{}.") + module, out, in, &rows);
  };
  rows.push_back({W::kEmbedTokens, "model.embed_tokens.weight", {config.vocab_size, hidden}});
  AddLayerNorm(W::kInputNorm, W::kInputNormBias, "model.layers.{}.input_layernorm", hidden, &rows);
  add_linear(W::kQProj, W::kQBias, "self_attn.q_proj", q_width, hidden);
  add_linear(W::kKProj, W::kKBias, "self_attn.k_proj", kv_width, hidden);
  add_linear(W::kVProj, W::kVBias, "self_attn.v_proj", kv_width, hidden);
  add_linear(W::kOProj, W::kOBias, "self_attn.dense", hidden, q_width);
  add_linear(W::kUpProj, W::kUpBias, "mlp.fc1", config.intermediate_size, hidden);
  add_linear(W::kDownProj, W::kDownBias, "mlp.fc2", hidden, config.intermediate_size);
  AddLayerNorm(W::kFinalNorm, W::kFinalNormBias, "model.final_layernorm", hidden, &rows);
  rows.push_back({W::kLmHead, "lm_head.weight", {config.vocab_size, hidden}, /*optional=*/config.tied_embeddings});
  rows.push_back({W::kLmHeadBias, "lm_head.bias", {config.vocab_size}});
  return rows;
}

}  // namespace

extern const Architecture kPhi;
const Architecture kPhi = {"PhiForCausalLM", "phi", ReadConfig, Weights};

}  // namespace lorad
