#pragma once

#include "adapters/ops/replaced_rows.h"
#include "adapters/ops/segmented_gemm.h"
#include "adapters/ops/tabled_routing.h"
#include "adapters/ops/tabled_rows.h"

// The CUDA form of the adapters' ops; arguments are checked before. As model/ops/cuda_ops.h.
namespace lorad::cuda {

absl::Status ReplaceEmbeddingRows(const ReplaceEmbeddingRowsArgs& args);
absl::Status ReplaceHeadRows(const ReplaceHeadRowsArgs& args);
absl::Status SegmentedGemm(const SegmentedGemmArgs& args);
absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args);
absl::Status TabledEmbedding(const TabledEmbeddingArgs& args);
absl::Status TabledExpand(const TabledExpandArgs& args);
absl::Status TabledPairs(const TabledPairsArgs& args);
absl::Status TabledReplacedEmbedding(const TabledReplacedEmbeddingArgs& args);
absl::Status TabledReplacedHead(const TabledReplacedHeadArgs& args);
absl::Status TabledRouting(const TabledRoutingArgs& args);
absl::Status TabledShrink(const TabledShrinkArgs& args);

}  // namespace lorad::cuda
