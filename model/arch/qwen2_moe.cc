#include "model/arch/decoder.h"
#include "model/arch/experts.h"

namespace lorad {
namespace {

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadDecoderFields(fields, {}, config);
  ReadRope(fields, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/false, config);
  config->qkv_bias = fields.Bool("qkv_bias", true);
  if (fields.Bool("use_sliding_window", false) && !fields.Has("layer_types")) {
    fields.Refuse("use_sliding_window", "transformers 4 and 5 disagree on which layers slide; layer_types would say");
  }
  ReadQwenWindows(fields, config);
  ReadExpertCounts(fields, ExpertCountKey::kNumExperts, /*absent_experts_per_token=*/4, config);
  ReadQwenRouting(fields, config);
  config->routed.shared_intermediate_size = fields.RequiredInt("shared_expert_intermediate_size", 1, kMaxWidth);
}

std::vector<WeightRow> Weights(const ModelConfig& config) { return RoutedDecoderWeights(config, kQwenExpertNames); }

}  // namespace

extern const Architecture kQwen2Moe;
const Architecture kQwen2Moe = {"Qwen2MoeForCausalLM", "qwen2_moe", ReadConfig, Weights};

}  // namespace lorad
