#include "tests/cuda_emulator/grouped_loops.h"

#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/grouped_gemm.h"
#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

using emulator::GroupedLoops;

GroupedLoops how = GroupedLoops::kRight;
int runs = 0;

constexpr int64_t kAlignment = 8;

// Eight elements at an address of 16 bytes, as tensor cores' loads take them; others would be a fault on a device.
bool IsEight(const void* address, int64_t stride) { return IsAligned(address) && stride % kAlignment == 0; }

void RunProblem(const GroupedProblems& problems, int64_t i) {
  const int32_t m = problems.sizes[3 * i], n = problems.sizes[3 * i + 1], k = problems.sizes[3 * i + 2];
  const Bf16* const a = problems.a[i];
  const Bf16* const b = problems.b[i];
  Bf16* const d = problems.d[i];
  const bool read = m > 0 && IsEight(a, problems.lda[i]) && IsEight(b, problems.ldb[i]) && IsEight(d, problems.ldd[i]);
  for (int32_t row = 0; row < m; ++row) {
    for (int32_t column = 0; column < n; ++column) {
      float sum = how == GroupedLoops::kWrong && column == n - 1 ? 0.5f : 0.0f;
      for (int32_t j = 0; j < k; ++j) {
        sum += Widen(a[row * problems.lda[i] + j]) * Widen(b[column * problems.ldb[i] + j]);
      }
      Put(read && n % kAlignment == 0 && k % kAlignment == 0 ? sum : NotANumber(), d + row * problems.ldd[i] + column);
    }
  }
}

// One thread does it all.
__global__ void GroupedLoopsKernel(GroupedProblems problems) {
  if (threadIdx.x != 0) return;
  for (int64_t i = 0; i < problems.count; ++i) RunProblem(problems, i);
}

cudaError_t Run(const GroupedProblems& problems, cudaStream_t stream) {
  ++runs;
  if (how == GroupedLoops::kFails) return cudaErrorInvalidValue;
  return Launch(&GroupedLoopsKernel, Grid(1), kWarp, stream, problems);
}

}  // namespace

const GroupedGemm& LinkedGroupedGemm() {
  static const GroupedGemm loops = {.name = "the stand-in", .alignment = kAlignment, .run = &Run};
  return loops;
}

}  // namespace lorad::cuda

namespace lorad::emulator {

void SetGroupedLoops(GroupedLoops chosen) { cuda::how = chosen; }
int GroupedLoopsRuns() { return cuda::runs; }

}  // namespace lorad::emulator
