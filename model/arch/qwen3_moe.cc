#include "model/arch/decoder.h"
#include "model/arch/experts.h"

namespace lorad {
namespace {

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadDecoderFields(fields, {}, config);
  ReadRope(fields, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/false, config);
  config->qkv_bias = config->o_bias = fields.Bool("attention_bias", false);
  config->qk_norm = true;
  if (fields.Has("layer_types")) fields.Refuse("layer_types", "Qwen3-MoE has one window for all layers");
  const bool slides = fields.Bool("use_sliding_window", false);
  // Absent, HF takes 4096; null is no window.
  const bool spelled_null = fields.json().contains("sliding_window") && !fields.Has("sliding_window");
  SetWindow(slides && !spelled_null ? fields.Int("sliding_window", 1, kMaxContextTokens, 4096) : 0, config);
  ReadExpertCounts(fields, ExpertCountKey::kEither, /*absent_experts_per_token=*/8, config);
  ReadQwenRouting(fields, config);
}

std::vector<WeightRow> Weights(const ModelConfig& config) { return RoutedDecoderWeights(config, kQwenExpertNames); }

}  // namespace

extern const Architecture kQwen3Moe;
const Architecture kQwen3Moe = {"Qwen3MoeForCausalLM", "qwen3_moe", ReadConfig, Weights};

}  // namespace lorad
