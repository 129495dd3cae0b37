#include "model/arch/decoder.h"

namespace lorad {
namespace {

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadDecoderFields(fields, {.max_positions = 4096, .norm_eps = 1e-5}, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/true, config);
  config->fused_projections = true;
  SetWindow(fields.Int("sliding_window", 1, kMaxContextTokens, 0), config);
  ReadPartialRope(fields, /*absent_share=*/1.0, config);
  if (config->rope.scaling != RopeScaling::kNone && config->rope.scaling != RopeScaling::kLongRope) {
    fields.Refuse(fields.Has("rope_scaling") ? "rope_scaling" : "rope_parameters", "default and longrope are here");
  }
}

}  // namespace

extern const Architecture kPhi3;
const Architecture kPhi3 = {"Phi3ForCausalLM", "phi3", ReadConfig, DecoderWeights};

}  // namespace lorad
