#pragma once

#include "model/arch/decoder.h"

namespace lorad {

// What the Gemmas share: norms of 1 + weight, embeddings scaled by sqrt(hidden), gelu by its tanh approximation, heads
// of 256, a tied head. Leaves rope and windows to the architecture.
inline constexpr DecoderDefaults kGemmaDefaults = {.head_dim = 256,
                                                   .max_positions = 8192,
                                                   .tied_embeddings = true,
                                                   .activation = "gelu_pytorch_tanh",
                                                   .activation_key = "hidden_activation"};
void ReadGemmaFields(ConfigFields& fields, const DecoderDefaults& absent, ModelConfig* config);

// Gemma 2 and 3: query_pre_attn_scalar, and the norms of what attention and MLP give. `absent_cap`:
// final_logit_softcapping of a file without the key; null is none.
void ReadGemma2Fields(ConfigFields& fields, double absent_cap, ModelConfig* config);

// A cap of scores or logits: `absent` without the key, 0 (none) when it is null.
double ReadSoftCap(ConfigFields& fields, const char* key, double absent);

}  // namespace lorad
