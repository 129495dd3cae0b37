#include "model/arch/experts.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/arch/decoder.h"

namespace lorad {
namespace {

constexpr int64_t kMaxExperts = 512;

}  // namespace

void ReadExpertCounts(ConfigFields& fields, ExpertCountKey key, int64_t absent_experts_per_token, ModelConfig* config) {
  // Version 5 calls Qwen3-MoE's num_experts num_local_experts.
  const bool local =
      key == ExpertCountKey::kNumLocalExperts || (key == ExpertCountKey::kEither && fields.Has("num_local_experts"));
  RoutedFfnConfig& routed = config->routed;
  routed.experts = fields.RequiredInt(local ? "num_local_experts" : "num_experts", 1, kMaxExperts);
  if (key == ExpertCountKey::kEither && local &&
      fields.Int("num_experts", 1, kMaxExperts, routed.experts) != routed.experts) {
    fields.Fail(absl::InvalidArgumentError(
        absl::StrCat(fields.Describe("num_experts"), "; num_local_experts: ", routed.experts)));
  }
  routed.experts_per_token = fields.Int("num_experts_per_tok", 1, kMaxExperts, absent_experts_per_token);
  if (routed.experts_per_token > routed.experts) {
    fields.Fail(absl::InvalidArgumentError(absl::StrCat(fields.Describe("num_experts_per_tok"), "; of experts: ",
                                                        routed.experts_per_token, "; limit: ", routed.experts)));
  }
}

void ReadQwenRouting(ConfigFields& fields, ModelConfig* config) {
  RoutedFfnConfig& routed = config->routed;
  routed.intermediate_size = fields.RequiredInt("moe_intermediate_size", 1, kMaxWidth);
  routed.renormalise = fields.Bool("norm_topk_prob", false);
  const int64_t step = fields.Int("decoder_sparse_step", 1, INT32_MAX, 1);
  const std::vector<int32_t> dense = fields.Ints("mlp_only_layers", INT32_MAX);
  for (int32_t layer = 0; layer < config->num_layers; ++layer) {
    const bool is_dense = std::find(dense.begin(), dense.end(), layer) != dense.end();
    if (!is_dense && (layer + 1) % step == 0) routed.layers.push_back(layer);
  }
}

std::vector<WeightRow> RoutedDecoderWeights(const ModelConfig& config, const ExpertNames& names) {
  using W = WeightName;
  std::vector<WeightRow> rows = DecoderWeights(config);
  const RoutedFfnConfig& routed = config.routed;
  if (routed.layers.empty()) return rows;
  const auto add = [&](WeightName name, const char* module, int64_t out, int64_t in) -> WeightRow& {
    rows.push_back({.name = name,
                    .stored_name = absl::StrCat("model.layers.{}.", module, ".weight"),
                    .shape = {out, in},
                    .layers = routed.layers});
    return rows.back();
  };
  const auto add_expert = [&](WeightName name, const char* module, int64_t out, int64_t in) {
    WeightRow& row = add(name, module, out, in);
    row.experts = routed.experts;
    row.module = "model.layers.{}.mlp.experts";  // transformers 5 holds all experts in two parameters of this module
  };
  const int64_t hidden = config.hidden_size, inner = routed.intermediate_size;
  add(W::kRouter, names.router, routed.experts, hidden).module = "model.layers.{}.mlp.gate";
  add_expert(W::kExpertGate, names.gate, inner, hidden);
  add_expert(W::kExpertUp, names.up, inner, hidden);
  add_expert(W::kExpertDown, names.down, hidden, inner);
  if (const int64_t shared = routed.shared_intermediate_size; shared > 0) {
    add(W::kSharedGateProj, "mlp.shared_expert.gate_proj", shared, hidden);
    add(W::kSharedUpProj, "mlp.shared_expert.up_proj", shared, hidden);
    add(W::kSharedDownProj, "mlp.shared_expert.down_proj", hidden, shared);
    add(W::kSharedGate, "mlp.shared_expert_gate", 1, hidden);
  }
  return rows;
}

}  // namespace lorad
