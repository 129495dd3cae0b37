#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_ops.h"

// As as_cpu_model_ops.cc, of what deals rows to experts.
namespace lorad::cpu {

absl::Status CombineDealt(const CombineDealtArgs& args) { return cuda::CombineDealt(args); }
absl::Status DealToExperts(const DealToExpertsArgs& args) { return cuda::DealToExperts(args); }
absl::Status DealtLinear(const DealtLinearArgs& args) { return cuda::DealtLinear(args); }

}  // namespace lorad::cpu
