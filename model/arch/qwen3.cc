#include "model/arch/decoder.h"

namespace lorad {
namespace {

constexpr int64_t kAbsentHeadDim = 128;  // HF's, whatever hidden_size / heads is

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadDecoderFields(fields, {.head_dim = kAbsentHeadDim}, config);
  ReadRope(fields, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/false, config);
  config->qkv_bias = config->o_bias = fields.Bool("attention_bias", false);
  config->qk_norm = true;
  ReadQwenWindows(fields, config);
}

}  // namespace

extern const Architecture kQwen3;
const Architecture kQwen3 = {"Qwen3ForCausalLM", "qwen3", ReadConfig, DecoderWeights};

}  // namespace lorad
