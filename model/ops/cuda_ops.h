#pragma once

#include <memory>

#include "absl/status/status.h"
#include "model/memory/cuda_status.h"
#include "model/ops/activate.h"
#include "model/ops/add_positions.h"
#include "model/ops/dealt_experts.h"
#include "model/ops/dequantize.h"
#include "model/ops/device_graph.h"
#include "model/ops/draw_rows.h"
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
#include "model/ops/side_stream.h"

// The CUDA form of every op; arguments are checked before. All are queued on LibTorch's current stream. Values that
// lie on the device are not looked at by the host: where the CPU form refuses an id or a position, the row becomes NaN.
namespace lorad::cuda {

absl::Status Activate(const ActivateArgs& args);
absl::Status AddPositions(const AddPositionsArgs& args);
absl::Status CombineDealt(const CombineDealtArgs& args);
absl::Status CombineExperts(const CombineExpertsArgs& args);
absl::Status DealToExperts(const DealToExpertsArgs& args);
bool DealsOnDevice(const DealsOnDeviceArgs& args);
absl::Status DealtLinear(const DealtLinearArgs& args);
absl::Status Dequantize(const DequantizeArgs& args);
absl::Status DrawRows(const DrawRowsArgs& args);
absl::Status Embedding(const EmbeddingArgs& args);
absl::Status ExpertLinear(const ExpertLinearArgs& args);
absl::Status GatedActivation(const GatedActivationArgs& args);
absl::Status LayerNorm(const LayerNormArgs& args);
absl::Status Linear(const LinearArgs& args);
absl::Status PagedAttention(const PagedAttentionArgs& args);
absl::Status PutDrawnTokens(const PutDrawnTokensArgs& args);
absl::Status RmsNorm(const RmsNormArgs& args);
absl::Status RopeKvWrite(const RopeKvWriteArgs& args);
absl::Status RouteTopK(const RouteTopKArgs& args);
std::unique_ptr<DeviceGraphs> NewGraphs();
std::unique_ptr<SideStream> NewSideStream();
// Matmuls of LibTorch's from now on, of all the process: sums of bf16 and f32 products in f32 (linear.h).
void MakeProductsExact();

}  // namespace lorad::cuda
