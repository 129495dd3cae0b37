#include "model/ops/cuda_table.h"

namespace lorad {
namespace {
const CudaOps kNone;
const CudaOps* installed = &kNone;
}  // namespace

void InstallCudaOps(const CudaOps* ops) { installed = ops == nullptr ? &kNone : ops; }
const CudaOps& InstalledCudaOps() { return *installed; }

}  // namespace lorad
