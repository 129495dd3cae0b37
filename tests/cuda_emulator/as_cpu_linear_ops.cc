#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_ops.h"

// The same for matmuls, all that the CPU forms' files have: ours are those of quantised weights.
namespace lorad::cpu {

bool HasOneDnnKernels() { return false; }
bool LinearGoesToOneDnn(at::ScalarType, int64_t) { return false; }
absl::Status Dequantize(const DequantizeArgs& args) { return cuda::Dequantize(args); }
absl::Status Linear(const LinearArgs& args) { return cuda::Linear(args); }
absl::Status ExpertLinear(const ExpertLinearArgs& args) { return cuda::ExpertLinear(args); }

}  // namespace lorad::cpu
