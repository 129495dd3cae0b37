#include <string>
#include <vector>

#include "model/arch/decoder.h"

namespace lorad {
namespace {

constexpr double kNormEps = 1e-5;       // torch's; no key of the config
constexpr int64_t kPositionOffset = 2;  // the first two rows of the table belong to padding

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadSizes(fields, {}, config);
  config->num_kv_heads = config->num_heads;
  config->intermediate_size = fields.RequiredInt("ffn_dim", 1, kMaxWidth);
  config->embedding_size = fields.Int("word_embed_proj_dim", 1, kMaxWidth, config->hidden_size);
  config->norm = NormKind::kLayer;
  config->norm_eps = kNormEps;
  config->norm_weights = fields.Bool("layer_norm_elementwise_affine", true);
  const bool norm_before = fields.Bool("do_layer_norm_before", true);
  config->block = norm_before ? BlockKind::kPreNorm : BlockKind::kPostNorm;
  config->final_norm = norm_before && !fields.Bool("_remove_final_layer_norm", false);
  config->gated_ffn = false;
  config->activation = ReadActivation(fields, "activation_function", "relu");
  config->qkv_bias = config->o_bias = config->mlp_bias = fields.Bool("enable_bias", true);
  config->position_offset = kPositionOffset;
  config->tied_embeddings = fields.Bool("tie_word_embeddings", true);
  SetWindow(0, config);
}

std::vector<WeightRow> Weights(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size, embedding = config.embedding_size;
  std::vector<WeightRow> rows;
  using W = WeightName;
  const auto add_norm = [&](WeightName weight, WeightName bias, const char* module) {
    if (config.norm_weights) AddLayerNorm(weight, bias, module, hidden, &rows);
  };
  const auto add_linear = [&](WeightName weight, WeightName bias, const char* module, int64_t out, int64_t in) {
    AddLinear(weight, bias, config.mlp_bias, std::string("model.decoder.layers.{}.") + module, out, in, &rows);
  };
  rows.push_back({W::kEmbedTokens, "model.decoder.embed_tokens.weight", {config.vocab_size, embedding}});
  rows.push_back({W::kPositions,
                  "model.decoder.embed_positions.weight",
                  {config.max_context_tokens + config.position_offset, hidden}});
  if (embedding != hidden) {
    rows.push_back({W::kProjectIn, "model.decoder.project_in.weight", {hidden, embedding}});
    rows.push_back({W::kProjectOut, "model.decoder.project_out.weight", {embedding, hidden}});
  }
  add_norm(W::kInputNorm, W::kInputNormBias, "model.decoder.layers.{}.self_attn_layer_norm");
  add_linear(W::kQProj, W::kQBias, "self_attn.q_proj", hidden, hidden);
  add_linear(W::kKProj, W::kKBias, "self_attn.k_proj", hidden, hidden);
  add_linear(W::kVProj, W::kVBias, "self_attn.v_proj", hidden, hidden);
  add_linear(W::kOProj, W::kOBias, "self_attn.out_proj", hidden, hidden);
  add_norm(W::kPostAttentionNorm, W::kPostAttentionNormBias, "model.decoder.layers.{}.final_layer_norm");
  add_linear(W::kUpProj, W::kUpBias, "fc1", config.intermediate_size, hidden);
  add_linear(W::kDownProj, W::kDownBias, "fc2", hidden, config.intermediate_size);
  if (config.final_norm) add_norm(W::kFinalNorm, W::kFinalNormBias, "model.decoder.final_layer_norm");
  rows.push_back({W::kLmHead, "lm_head.weight", {config.vocab_size, embedding}, /*optional=*/config.tied_embeddings});
  return rows;
}

}  // namespace

extern const Architecture kOpt;
const Architecture kOpt = {"OPTForCausalLM", "opt", ReadConfig, Weights};

}  // namespace lorad
