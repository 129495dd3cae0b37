#include "adapters/ops/cuda_ops.h"
#include "adapters/ops/long_segments_cuda.h"
#include "model/memory/cuda_memory.h"
#include "model/ops/cuda_ops.h"
#include "model/ops/cuda_table.h"

// What `lorad` looks for when it opens liblorad_cuda.so (model/ops/open_cuda.h).
extern "C" __attribute__((visibility("default"))) const lorad::CudaLibrary lorad_cuda_library;

const lorad::CudaLibrary lorad_cuda_library = {
    .version = lorad::kCudaLibraryVersion,
    .ops =
        {
            .activate = &lorad::cuda::Activate,
            .add_positions = &lorad::cuda::AddPositions,
            .combine_dealt = &lorad::cuda::CombineDealt,
            .combine_experts = &lorad::cuda::CombineExperts,
            .deal_to_experts = &lorad::cuda::DealToExperts,
            .deals_on_device = &lorad::cuda::DealsOnDevice,
            .dealt_linear = &lorad::cuda::DealtLinear,
            .dequantize = &lorad::cuda::Dequantize,
            .draw_rows = &lorad::cuda::DrawRows,
            .embedding = &lorad::cuda::Embedding,
            .expert_linear = &lorad::cuda::ExpertLinear,
            .gated_activation = &lorad::cuda::GatedActivation,
            .layer_norm = &lorad::cuda::LayerNorm,
            .linear = &lorad::cuda::Linear,
            .paged_attention = &lorad::cuda::PagedAttention,
            .put_drawn_tokens = &lorad::cuda::PutDrawnTokens,
            .replace_embedding_rows = &lorad::cuda::ReplaceEmbeddingRows,
            .replace_head_rows = &lorad::cuda::ReplaceHeadRows,
            .rms_norm = &lorad::cuda::RmsNorm,
            .rope_kv_write = &lorad::cuda::RopeKvWrite,
            .route_top_k = &lorad::cuda::RouteTopK,
            .segmented_gemm = &lorad::cuda::SegmentedGemm,
            .segmented_embedding = &lorad::cuda::SegmentedEmbedding,
            .tabled_embedding = &lorad::cuda::TabledEmbedding,
            .tabled_expand = &lorad::cuda::TabledExpand,
            .tabled_pairs = &lorad::cuda::TabledPairs,
            .tabled_replaced_embedding = &lorad::cuda::TabledReplacedEmbedding,
            .tabled_replaced_head = &lorad::cuda::TabledReplacedHead,
            .tabled_routing = &lorad::cuda::TabledRouting,
            .tabled_shrink = &lorad::cuda::TabledShrink,
            .check_fast_forms = &lorad::cuda::CheckFormsOfDevice,
            .leave_out_fast_forms = &lorad::cuda::LeaveOutFormsOfDevice,
            .new_graphs = &lorad::cuda::NewGraphs,
            .new_side_stream = &lorad::cuda::NewSideStream,
        },
    .memory = {.create = &lorad::cuda::CreateMemory, .available_bytes = &lorad::cuda::AvailableBytes},
    .begin = &lorad::cuda::MakeProductsExact,
};
