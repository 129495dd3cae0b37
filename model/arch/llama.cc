#include "model/arch/decoder.h"

namespace lorad {
namespace {

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadDecoderFields(fields, {}, config);
  ReadRope(fields, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/true, config);
  config->qkv_bias = config->o_bias = fields.Bool("attention_bias", false);
  config->mlp_bias = fields.Bool("mlp_bias", false);
  SetWindow(0, config);
}

}  // namespace

extern const Architecture kLlama;
const Architecture kLlama = {"LlamaForCausalLM", "llama", ReadConfig, DecoderWeights};

}  // namespace lorad
