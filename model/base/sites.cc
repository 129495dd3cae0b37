#include "model/sites.h"

namespace lorad {

std::string_view Name(Site site) {
  switch (site) {
    case Site::kQProj:
      return "q_proj";
    case Site::kKProj:
      return "k_proj";
    case Site::kVProj:
      return "v_proj";
    case Site::kOProj:
      return "o_proj";
    case Site::kGateProj:
      return "gate_proj";
    case Site::kUpProj:
      return "up_proj";
    case Site::kDownProj:
      return "down_proj";
    case Site::kRouter:
      return "gate";
    case Site::kExpertGateUp:
      return "experts.gate_up_proj";
    case Site::kExpertDown:
      return "experts.down_proj";
    case Site::kSharedGateProj:
      return "shared_expert.gate_proj";
    case Site::kSharedUpProj:
      return "shared_expert.up_proj";
    case Site::kSharedDownProj:
      return "shared_expert.down_proj";
    case Site::kSharedGate:
      return "shared_expert_gate";
    case Site::kEmbedTokens:
      return "embed_tokens";
    case Site::kLmHead:
      return "lm_head";
    case Site::kQkvProj:
      return "qkv_proj";
    case Site::kGateUpProj:
      return "gate_up_proj";
    case Site::kFfn:
      return "mlp";
    case Site::kProjectIn:
      return "project_in";
    case Site::kProjectOut:
      return "project_out";
    case Site::kInputNorm:
      return "input_layernorm";
    case Site::kPostAttentionNorm:
      return "post_attention_layernorm";
    case Site::kAttentionOutNorm:
      return "attention_out_norm";
    case Site::kMlpOutNorm:
      return "mlp_out_norm";
    case Site::kQNorm:
      return "q_norm";
    case Site::kKNorm:
      return "k_norm";
    case Site::kFinalNorm:
      return "norm";
  }
  return "?";
}

}  // namespace lorad
