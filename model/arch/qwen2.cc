#include "model/arch/decoder.h"

namespace lorad {
namespace {

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadDecoderFields(fields, {}, config);
  ReadRope(fields, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/false, config);
  config->qkv_bias = true;
  ReadQwenWindows(fields, config);
}

}  // namespace

extern const Architecture kQwen2;
const Architecture kQwen2 = {"Qwen2ForCausalLM", "qwen2", ReadConfig, DecoderWeights};

}  // namespace lorad
