#include "adapters/ops/cpu_ops.h"
#include "adapters/ops/cuda_ops.h"

// As as_cpu_model_ops.cc, of the adapters' operators.
namespace lorad::cpu {

absl::Status ReplaceEmbeddingRows(const ReplaceEmbeddingRowsArgs& args) { return cuda::ReplaceEmbeddingRows(args); }
absl::Status ReplaceHeadRows(const ReplaceHeadRowsArgs& args) { return cuda::ReplaceHeadRows(args); }
absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args) { return cuda::SegmentedEmbedding(args); }
absl::Status SegmentedGemm(const SegmentedGemmArgs& args) { return cuda::SegmentedGemm(args); }

}  // namespace lorad::cpu
