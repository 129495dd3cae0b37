#pragma once

#include <vector>

#include "model/arch/architecture.h"

namespace lorad {

// What bases with routed FFNs share.

// HF's names of one expert's three matrices and of the router, below "model.layers.{}.".
struct ExpertNames {
  const char* router;  // as stored; its module is "mlp.gate"
  const char* gate;
  const char* up;
  const char* down;
};
inline constexpr ExpertNames kQwenExpertNames = {"mlp.gate", "mlp.experts.{expert}.gate_proj",
                                                 "mlp.experts.{expert}.up_proj", "mlp.experts.{expert}.down_proj"};

// Where a config says how many experts there are.
enum class ExpertCountKey : uint8_t { kNumExperts, kNumLocalExperts, kEither };

// Number of experts and of those that a row takes; which layers are routed is another's business.
void ReadExpertCounts(ConfigFields& fields, ExpertCountKey key, int64_t absent_experts_per_token, ModelConfig* config);

// moe_intermediate_size, norm_topk_prob, decoder_sparse_step and mlp_only_layers, as Qwen2-MoE and Qwen3-MoE have them.
void ReadQwenRouting(ConfigFields& fields, ModelConfig* config);

// DecoderWeights and the tensors of router, experts and shared expert.
std::vector<WeightRow> RoutedDecoderWeights(const ModelConfig& config, const ExpertNames& names);

}  // namespace lorad
