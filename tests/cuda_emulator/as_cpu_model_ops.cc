#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_ops.h"

// The emulator computes on tensors of the CPU: the CUDA forms under the names of the CPU forms.
namespace lorad::cpu {

absl::Status Activate(const ActivateArgs& args) { return cuda::Activate(args); }
absl::Status AddPositions(const AddPositionsArgs& args) { return cuda::AddPositions(args); }
absl::Status CombineExperts(const CombineExpertsArgs& args) { return cuda::CombineExperts(args); }
absl::Status Embedding(const EmbeddingArgs& args) { return cuda::Embedding(args); }
absl::Status GatedActivation(const GatedActivationArgs& args) { return cuda::GatedActivation(args); }
absl::Status LayerNorm(const LayerNormArgs& args) { return cuda::LayerNorm(args); }
absl::Status PagedAttention(const PagedAttentionArgs& args) { return cuda::PagedAttention(args); }
absl::Status PutDrawnTokens(const PutDrawnTokensArgs& args) { return cuda::PutDrawnTokens(args); }
absl::Status RmsNorm(const RmsNormArgs& args) { return cuda::RmsNorm(args); }
absl::Status RopeKvWrite(const RopeKvWriteArgs& args) { return cuda::RopeKvWrite(args); }
absl::Status RouteTopK(const RouteTopKArgs& args) { return cuda::RouteTopK(args); }

}  // namespace lorad::cpu
