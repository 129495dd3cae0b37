#include "model/arch/decoder.h"

namespace lorad {
namespace {

void ReadConfig(ConfigFields& fields, ModelConfig* config) {
  ReadDecoderFields(fields, {}, config);
  ReadRope(fields, config);
  ReadKvHeads(fields, /*defaults_to_heads=*/false, config);
  if (fields.Has("layer_types")) fields.Refuse("layer_types", "Mistral has one window for all layers");
  // Absent, HF takes 4096; null is no window.
  const bool spelled_null = fields.json().contains("sliding_window") && !fields.Has("sliding_window");
  SetWindow(spelled_null ? 0 : fields.Int("sliding_window", 1, kMaxContextTokens, 4096), config);
}

}  // namespace

extern const Architecture kMistral;
const Architecture kMistral = {"MistralForCausalLM", "mistral", ReadConfig, DecoderWeights};

}  // namespace lorad
