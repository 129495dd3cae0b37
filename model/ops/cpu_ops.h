#pragma once

#include "model/ops/activate.h"
#include "model/ops/add_positions.h"
#include "model/ops/dealt_experts.h"
#include "model/ops/dequantize.h"
#include "model/ops/embedding.h"
#include "model/ops/expert_linear.h"
#include "model/ops/gated_activation.h"
#include "model/ops/layer_norm.h"
#include "model/ops/linear.h"
#include "model/ops/paged_attention.h"
#include "model/ops/put_drawn_tokens.h"
#include "model/ops/rms_norm.h"
#include "model/ops/rope_kv_write.h"
#include "model/ops/route_top_k.h"

// The CPU form of every op; arguments are checked before.
namespace lorad::cpu {

absl::Status Activate(const ActivateArgs& args);
absl::Status AddPositions(const AddPositionsArgs& args);
absl::Status CombineDealt(const CombineDealtArgs& args);
absl::Status CombineExperts(const CombineExpertsArgs& args);
absl::Status DealToExperts(const DealToExpertsArgs& args);
absl::Status DealtLinear(const DealtLinearArgs& args);
absl::Status Dequantize(const DequantizeArgs& args);
absl::Status Embedding(const EmbeddingArgs& args);
absl::Status ExpertLinear(const ExpertLinearArgs& args);
absl::Status GatedActivation(const GatedActivationArgs& args);
absl::Status LayerNorm(const LayerNormArgs& args);
absl::Status Linear(const LinearArgs& args);
// Many rows of bf16 on a processor with AMX: LibTorch's oneDNN has kernels for it.
// There alone a row's bits may depend on whether it is computed among many rows or few.
bool HasOneDnnKernels();
bool LinearGoesToOneDnn(at::ScalarType dtype, int64_t rows);
absl::Status PagedAttention(const PagedAttentionArgs& args);
absl::Status PutDrawnTokens(const PutDrawnTokensArgs& args);
absl::Status RmsNorm(const RmsNormArgs& args);
absl::Status RopeKvWrite(const RopeKvWriteArgs& args);
absl::Status RouteTopK(const RouteTopKArgs& args);

}  // namespace lorad::cpu
