#include "model/arch/gemma.h"

#include <cmath>

namespace lorad {

void ReadGemmaFields(ConfigFields& fields, const DecoderDefaults& absent, ModelConfig* config) {
  ReadDecoderFields(fields, absent, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/false, config);
  config->norm = NormKind::kRmsPlusOne;
  config->embedding_scale = std::sqrt(static_cast<double>(config->hidden_size));
  config->qkv_bias = config->o_bias = fields.Bool("attention_bias", false);
  if (fields.Bool("use_bidirectional_attention", false)) {
    fields.Refuse("use_bidirectional_attention", "attention is causal");
  }
  SetWindow(0, config);
}

double ReadSoftCap(ConfigFields& fields, const char* key, double absent) {
  const bool spelled_null = fields.json().contains(key) && !fields.Has(key);
  return spelled_null ? 0.0 : fields.Number(key, 1e-3, 1e6, absent);
}

void ReadGemma2Fields(ConfigFields& fields, double absent_cap, ModelConfig* config) {
  config->sandwich_norms = true;
  config->attention_scale = 1.0 / std::sqrt(fields.Number("query_pre_attn_scalar", 1e-3, 1e6, 256.0));
  config->logit_softcap = ReadSoftCap(fields, "final_logit_softcapping", absent_cap);
}

namespace {

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  // Version 4 reads hidden_activation where it is set, version 5 hidden_act; the latter's "gelu" is a slip of the first
  // files and means the approximation, says HF.
  ReadGemmaFields(fields, kGemmaDefaults, config);
  const std::string act = fields.String("hidden_act", "gelu");
  if (act != "gelu" && act != "gelu_pytorch_tanh") fields.Refuse("hidden_act", "gelu_pytorch_tanh is");
  ReadRope(fields, config);
}

}  // namespace

extern const Architecture kGemma;
const Architecture kGemma = {"GemmaForCausalLM", "gemma", ReadConfig, DecoderWeights};

}  // namespace lorad
