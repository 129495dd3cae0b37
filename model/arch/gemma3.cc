#include "model/arch/gemma.h"

namespace lorad {
namespace {

// The text model; one that sees images has another architecture's name.
void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  DecoderDefaults absent = kGemmaDefaults;
  absent.max_positions = 131072;
  ReadGemmaFields(fields, absent, config);
  ReadGemma2Fields(fields, /*absent_cap=*/0.0, config);
  config->qk_norm = true;
  if (fields.Has("attn_logit_softcapping")) {
    fields.Refuse("attn_logit_softcapping", "transformers reads the key and does not apply it");
  }
  const int64_t full_every = fields.Int("sliding_window_pattern", 1, 1024, 6);
  ReadAlternatingWindows(fields, /*absent_window=*/4096, full_every, config);
  ReadTwoRopes(fields, config);
}

}  // namespace

extern const Architecture kGemma3;
const Architecture kGemma3 = {"Gemma3ForCausalLM", "gemma3_text", ReadConfig, DecoderWeights};

}  // namespace lorad
