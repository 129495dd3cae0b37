#include <cstddef>
#include <type_traits>

#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/grouped_gemm.h"
#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

constexpr int kSizes = 3;  // of a problem

// A thread a problem: part by part, expert by expert.
__global__ void GroupedProblemsKernel(DealtProducts<Bf16> products, GroupedProblems problems) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= problems.count) return;
  const DealtPart part = products.parts[i / products.experts];
  const int64_t expert = i % products.experts, first = products.starts[expert];
  problems.sizes[kSizes * i] = static_cast<int32_t>(products.starts[expert + 1] - first);
  problems.sizes[kSizes * i + 1] = static_cast<int32_t>(part.columns);
  problems.sizes[kSizes * i + 2] = static_cast<int32_t>(products.in);
  problems.a[i] = products.x.row(first);
  problems.b[i] = reinterpret_cast<const Bf16*>(part.weights[expert]);
  problems.d[i] = products.y.row(first) + part.first_column;
  problems.lda[i] = products.x.stride;
  problems.ldb[i] = products.in;
  problems.ldd[i] = products.y.stride;
}

}  // namespace

int64_t PlaceProblems(const DealtProducts<Bf16>& products, std::byte* memory, GroupedProblems* problems) {
  const int64_t count = products.num_parts * products.experts;
  int64_t bytes = 0;
  const auto place = [&](auto** array, int64_t each) {
    constexpr int64_t kBorder = 16;
    if (memory != nullptr) *array = reinterpret_cast<std::remove_pointer_t<decltype(array)>>(memory + bytes);
    bytes += (count * each * int64_t{sizeof(**array)} + kBorder - 1) / kBorder * kBorder;
  };
  problems->count = static_cast<int32_t>(count);
  problems->rows_each = (products.pairs + products.experts - 1) / products.experts;
  place(&problems->sizes, kSizes);
  place(&problems->a, 1);
  place(&problems->b, 1);
  place(&problems->d, 1);
  place(&problems->lda, 1);
  place(&problems->ldb, 1);
  place(&problems->ldd, 1);
  return bytes;
}

cudaError_t LaunchGroupedProblems(const DealtProducts<Bf16>& products, const GroupedProblems& problems,
                                  cudaStream_t stream) {
  constexpr int kThreads = 128;
  return Launch(&GroupedProblemsKernel, Grid((problems.count + kThreads - 1) / kThreads), kThreads, stream, products,
                problems);
}

}  // namespace lorad::cuda
