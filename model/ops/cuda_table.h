#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>

#include "absl/status/status.h"
#include "model/memory/pool_memory.h"
#include "model/ops/device_graph.h"
#include "model/ops/side_stream.h"

namespace lorad {

struct ActivateArgs;
struct AddPositionsArgs;
struct CombineDealtArgs;
struct CombineExpertsArgs;
struct DealToExpertsArgs;
struct DealsOnDeviceArgs;
struct DealtLinearArgs;
struct DequantizeArgs;
struct DrawRowsArgs;
struct EmbeddingArgs;
struct ExpertLinearArgs;
struct GatedActivationArgs;
struct LayerNormArgs;
struct LinearArgs;
struct PagedAttentionArgs;
struct PutDrawnTokensArgs;
struct ReplaceEmbeddingRowsArgs;
struct ReplaceHeadRowsArgs;
struct RmsNormArgs;
struct RopeKvWriteArgs;
struct RouteTopKArgs;
struct SegmentedGemmArgs;
struct SegmentedEmbeddingArgs;
struct TabledEmbeddingArgs;
struct TabledExpandArgs;
struct TabledPairsArgs;
struct TabledReplacedEmbeddingArgs;
struct TabledReplacedHeadArgs;
struct TabledRoutingArgs;
struct TabledShrinkArgs;

// The CUDA form of every op. The CUDA shared object, when it is opened, hands its table to InstallCudaOps before the
// first call of Torch; an entry left null, or no table at all, means Unimplemented.
struct CudaOps {
  absl::Status (*activate)(const ActivateArgs&) = nullptr;
  absl::Status (*add_positions)(const AddPositionsArgs&) = nullptr;
  absl::Status (*combine_dealt)(const CombineDealtArgs&) = nullptr;
  absl::Status (*combine_experts)(const CombineExpertsArgs&) = nullptr;
  absl::Status (*deal_to_experts)(const DealToExpertsArgs&) = nullptr;
  bool (*deals_on_device)(const DealsOnDeviceArgs&) = nullptr;
  absl::Status (*dealt_linear)(const DealtLinearArgs&) = nullptr;
  absl::Status (*dequantize)(const DequantizeArgs&) = nullptr;
  absl::Status (*draw_rows)(const DrawRowsArgs&) = nullptr;
  absl::Status (*embedding)(const EmbeddingArgs&) = nullptr;
  absl::Status (*expert_linear)(const ExpertLinearArgs&) = nullptr;
  absl::Status (*gated_activation)(const GatedActivationArgs&) = nullptr;
  absl::Status (*layer_norm)(const LayerNormArgs&) = nullptr;
  absl::Status (*linear)(const LinearArgs&) = nullptr;
  absl::Status (*paged_attention)(const PagedAttentionArgs&) = nullptr;
  absl::Status (*put_drawn_tokens)(const PutDrawnTokensArgs&) = nullptr;
  absl::Status (*replace_embedding_rows)(const ReplaceEmbeddingRowsArgs&) = nullptr;
  absl::Status (*replace_head_rows)(const ReplaceHeadRowsArgs&) = nullptr;
  absl::Status (*rms_norm)(const RmsNormArgs&) = nullptr;
  absl::Status (*rope_kv_write)(const RopeKvWriteArgs&) = nullptr;
  absl::Status (*route_top_k)(const RouteTopKArgs&) = nullptr;
  absl::Status (*segmented_gemm)(const SegmentedGemmArgs&) = nullptr;
  absl::Status (*segmented_embedding)(const SegmentedEmbeddingArgs&) = nullptr;
  absl::Status (*tabled_embedding)(const TabledEmbeddingArgs&) = nullptr;
  absl::Status (*tabled_expand)(const TabledExpandArgs&) = nullptr;
  absl::Status (*tabled_pairs)(const TabledPairsArgs&) = nullptr;
  absl::Status (*tabled_replaced_embedding)(const TabledReplacedEmbeddingArgs&) = nullptr;
  absl::Status (*tabled_replaced_head)(const TabledReplacedHeadArgs&) = nullptr;
  absl::Status (*tabled_routing)(const TabledRoutingArgs&) = nullptr;
  absl::Status (*tabled_shrink)(const TabledShrinkArgs&) = nullptr;
  // Compares what other libraries' kernels compute with ours, on the device: only what agrees is used from then on. A
  // line for each form that does not; `used`, if there is one, gets the names of those that do.
  std::vector<std::string> (*check_fast_forms)(std::vector<std::string>* used) = nullptr;
  void (*leave_out_fast_forms)() = nullptr;
  // No ops: what captures the launches of all of them, and a stream beside the current one.
  std::unique_ptr<DeviceGraphs> (*new_graphs)() = nullptr;
  std::unique_ptr<SideStream> (*new_side_stream)() = nullptr;
};

// What liblorad_cuda.so has under kCudaLibrarySymbol.
struct CudaLibrary {
  uint64_t version = 0;
  CudaOps ops;
  DeviceMemory memory;
  // Whoever opens it calls this once, before its operators.
  void (*begin)() = nullptr;
};
inline constexpr char kCudaLibrarySymbol[] = "lorad_cuda_library";
inline constexpr uint64_t kCudaLibraryVersion = 4000 + sizeof(CudaLibrary);  // the thousands: of arguments

// `ops` must outlive every call of an op. Not thread-safe: once, at start.
void InstallCudaOps(const CudaOps* ops);
const CudaOps& InstalledCudaOps();

// Runs the op where its tensors are.
template <typename Args>
absl::Status Dispatch(std::string_view op, const at::Tensor& on, absl::Status (*cpu)(const Args&),
                      absl::Status (*cuda)(const Args&), const Args& args) {
  if (on.is_cpu()) return cpu(args);
  if (on.is_cuda() && cuda != nullptr) {
    const c10::DeviceGuard current(on.device());  // launches go to the current device
    return cuda(args);
  }
  return absl::UnimplementedError(std::string(op) + ": device: " + on.device().str() +
                                  "; limit: cpu; no CUDA operators are loaded");
}

}  // namespace lorad
