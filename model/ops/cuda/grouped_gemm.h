#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "model/ops/cuda/dealt_kernels.h"

// The experts' products on tensor cores by a library's grouped GEMM, beside ours (dealt_kernels.h), which is the
// reference, is for any type and width, and is all that there is until CheckGroupedGemm has found both to agree on the
// device at hand.
namespace lorad::cuda {

// d [m, n] = a [m, k] b [n, k]^T, one problem for each part and expert; arrays on the device, written there.
struct GroupedProblems {
  int32_t count;
  int64_t rows_each;         // on average, for the choice of a tile
  int32_t* sizes;            // [count, 3]: m, n, k
  const __nv_bfloat16** a;   // [count]
  const __nv_bfloat16** b;   // [count]
  __nv_bfloat16** d;         // [count]
  int64_t *lda, *ldb, *ldd;  // [count], elements
};
// Lays the arrays out in `memory`, 16-byte aligned; their bytes. nullptr: tells the bytes alone.
int64_t PlaceProblems(const DealtProducts<__nv_bfloat16>& products, std::byte* memory, GroupedProblems* problems);
// Writes them for x's rows as they are: input_rows is nullptr.
cudaError_t LaunchGroupedProblems(const DealtProducts<__nv_bfloat16>& products, const GroupedProblems& problems,
                                  cudaStream_t stream);

struct GroupedGemm {
  const char* name;
  // Rows, columns, strides and addresses are multiples of so many elements.
  int64_t alignment;
  cudaError_t (*run)(const GroupedProblems& problems, cudaStream_t stream);
};

// CUTLASS's, of liblorad_cuda.so; on an emulated device a stand-in that tests choose (tests/cuda_emulator).
const GroupedGemm& LinkedGroupedGemm();

// Compares both on small cases, of few and of many rows, on LibTorch's current device; from then on DealtLinear goes to
// the library's where they agree, and its name to `used`, if there is one. A line for what does not, or fails.
std::vector<std::string> CheckGroupedGemm(std::vector<std::string>* used);
void LeaveOutGroupedGemm();

}  // namespace lorad::cuda
