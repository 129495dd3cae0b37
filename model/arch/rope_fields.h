#pragma once

#include "model/arch/config_fields.h"
#include "model/config.h"

namespace lorad {

// What config.json says of rotary embeddings, in either spelling: version 5 has rope_parameters; version 4 rope_scaling
// (which wins when a file has both, as in HF) and rope_theta. Needs head_dim and max_context_tokens; lengthens
// max_context_tokens where the scaling does (dynamic, yarn).
//
// Source   HF modeling_rope_utils: rope types default, linear, dynamic, yarn, longrope, llama3.
void ReadRope(ConfigFields& fields, ModelConfig* config);

// The same for an architecture that may rotate a part of each head; `absent_share` without partial_rotary_factor.
void ReadPartialRope(ConfigFields& fields, double absent_share, ModelConfig* config);

// Gemma 3's two: full_attention goes to `rope`, sliding_attention to `local_rope`. Version 4 has rope_theta,
// rope_scaling (of full attention only) and rope_local_base_freq.
void ReadTwoRopes(ConfigFields& fields, ModelConfig* config);

}  // namespace lorad
