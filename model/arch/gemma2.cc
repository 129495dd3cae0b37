#include "model/arch/gemma.h"

namespace lorad {
namespace {

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadGemmaFields(fields, kGemmaDefaults, config);
  ReadGemma2Fields(fields, /*absent_cap=*/30.0, config);
  config->attention_softcap = ReadSoftCap(fields, "attn_logit_softcapping", 50.0);
  ReadAlternatingWindows(fields, /*absent_window=*/4096, /*full_every=*/2, config);
  ReadRope(fields, config);
}

}  // namespace

extern const Architecture kGemma2;
const Architecture kGemma2 = {"Gemma2ForCausalLM", "gemma2", ReadConfig, DecoderWeights};

}  // namespace lorad
