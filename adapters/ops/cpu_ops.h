#pragma once

#include "adapters/ops/segmented_gemm.h"

// The CPU form of the adapters' ops; arguments are checked before.
namespace lorad::cpu {

absl::Status SegmentedGemm(const SegmentedGemmArgs& args);
absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args);

}  // namespace lorad::cpu
