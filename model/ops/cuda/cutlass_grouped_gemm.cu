#include <cutlass/bfloat16.h>
#include <cutlass/epilogue/thread/linear_combination.h>
#include <cutlass/gemm/device/gemm_grouped.h>
#include <cutlass/gemm/kernel/default_gemm_grouped.h>
#include <cutlass/gemm/threadblock/threadblock_swizzle.h>

#include "model/ops/cuda/grouped_gemm.h"

// CUTLASS's grouped GEMM for sm_80 and later: persistent blocks that find their tiles in the problems' sizes on the
// device.
namespace lorad::cuda {
namespace {

using Element = cutlass::bfloat16_t;
constexpr int kAlignment = 8;  // elements of 16 bytes

template <class Tile, class WarpTile, int kStages>
using Grouped = cutlass::gemm::device::GemmGrouped<typename cutlass::gemm::kernel::DefaultGemmGrouped<
    Element, cutlass::layout::RowMajor, cutlass::ComplexTransform::kNone, kAlignment,     // a
    Element, cutlass::layout::ColumnMajor, cutlass::ComplexTransform::kNone, kAlignment,  // b^T
    Element, cutlass::layout::RowMajor, float, cutlass::arch::OpClassTensorOp, cutlass::arch::Sm80, Tile, WarpTile,
    cutlass::gemm::GemmShape<16, 8, 16>,
    cutlass::epilogue::thread::LinearCombination<Element, kAlignment, float, float>,
    cutlass::gemm::threadblock::GemmBatchedIdentityThreadblockSwizzle, kStages,
    cutlass::gemm::kernel::GroupScheduleMode::kDeviceOnly>::GemmKernel>;

// Decode waits for the weights' bytes: a tile of few rows, and much of `in` under way.
using OfFewRows = Grouped<cutlass::gemm::GemmShape<16, 128, 64>, cutlass::gemm::GemmShape<16, 32, 64>, 4>;
using OfManyRows = Grouped<cutlass::gemm::GemmShape<128, 128, 32>, cutlass::gemm::GemmShape<64, 64, 32>, 4>;
constexpr int64_t kFewRowsEach = 16;

cudaError_t ErrorOf(cutlass::Status status) {
  if (status == cutlass::Status::kSuccess) return cudaSuccess;
  const cudaError_t last = cudaGetLastError();
  return last == cudaSuccess ? cudaErrorNotSupported : last;
}

template <class Gemm>
cudaError_t RunAs(const GroupedProblems& problems, cudaStream_t stream) {
  static const int blocks = Gemm::sufficient();  // as many as the device runs at once
  if (blocks <= 0) return cudaErrorNotSupported;
  const auto elements = [](auto** of) { return reinterpret_cast<Element**>(const_cast<__nv_bfloat16**>(of)); };
  typename Gemm::Arguments arguments(reinterpret_cast<cutlass::gemm::GemmCoord*>(problems.sizes), problems.count,
                                     blocks, {/*alpha=*/1.0f, /*beta=*/0.0f}, elements(problems.a),
                                     elements(problems.b), elements(problems.d), elements(problems.d), problems.lda,
                                     problems.ldb, problems.ldd, problems.ldd);
  Gemm gemm;
  const cudaError_t error = ErrorOf(gemm.initialize(arguments, nullptr, stream));
  return error == cudaSuccess ? ErrorOf(gemm.run(stream)) : error;
}

cudaError_t Run(const GroupedProblems& problems, cudaStream_t stream) {
  return problems.rows_each <= kFewRowsEach ? RunAs<OfFewRows>(problems, stream) : RunAs<OfManyRows>(problems, stream);
}

}  // namespace

const GroupedGemm& LinkedGroupedGemm() {
  static const GroupedGemm cutlass = {.name = "CUTLASS", .alignment = kAlignment, .run = &Run};
  return cutlass;
}

}  // namespace lorad::cuda
