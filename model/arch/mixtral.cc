#include <numeric>

#include "model/arch/decoder.h"
#include "model/arch/experts.h"

namespace lorad {
namespace {

constexpr ExpertNames kNames = {"block_sparse_moe.gate", "block_sparse_moe.experts.{expert}.w1",
                                "block_sparse_moe.experts.{expert}.w3", "block_sparse_moe.experts.{expert}.w2"};

constexpr double kAbsentRopeTheta = 1e6;

bool StatesRopeTheta(ConfigFields& fields) {
  return fields.Has("rope_theta") || fields.Object("rope_parameters").Has("rope_theta") ||
         fields.Object("rope_scaling").Has("rope_theta");
}

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadDecoderFields(fields, {.norm_eps = 1e-5}, config);
  ReadRope(fields, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/false, config);
  if (!StatesRopeTheta(fields)) config->rope.theta = kAbsentRopeTheta;
  if (fields.Has("layer_types")) fields.Refuse("layer_types", "Mixtral has one window for all layers");
  SetWindow(fields.Int("sliding_window", 1, kMaxContextTokens, 0), config);
  ReadExpertCounts(fields, ExpertCountKey::kNumLocalExperts, /*absent_experts_per_token=*/2, config);
  config->routed.intermediate_size = config->intermediate_size;
  config->routed.layers.resize(static_cast<size_t>(config->num_layers));
  std::iota(config->routed.layers.begin(), config->routed.layers.end(), 0);
}

std::vector<WeightRow> Weights(const ModelConfig& config) { return RoutedDecoderWeights(config, kNames); }

}  // namespace

extern const Architecture kMixtral;
const Architecture kMixtral = {"MixtralForCausalLM", "mixtral", ReadConfig, Weights};

}  // namespace lorad
