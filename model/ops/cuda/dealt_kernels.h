#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

#include "model/ops/cuda/row_kernels.h"
#include "model/quantization.h"

// Rows dealt to experts without the host, and the experts' products; the contracts are those of
// model/ops/dealt_experts.h. Pointers are the device's. T is float or __nv_bfloat16. Grids go by shapes; how many rows
// an expert has is read by the kernels.
namespace lorad::cuda {

struct DealtChoices {
  int64_t rows;
  int64_t k;
  int64_t experts;        // kMaxExperts at most
  const int32_t* chosen;  // [rows, k]; below 0: none
  const float* weights;   // [rows, k]
  int32_t* starts;        // [experts + 1]
  int32_t* pair_rows;     // [rows * k]
  int32_t* pairs;         // [rows, k]
  float* pair_weights;    // [rows, k]
};
// Ints of scratch that LaunchDeal wants.
int64_t DealScratch(const DealtChoices& choices);
cudaError_t LaunchDeal(const DealtChoices& choices, int32_t* scratch, cudaStream_t stream);

// The same part of all experts' weights.
struct DealtPart {
  const std::byte* const* weights;  // [experts]: [columns, in] of x's type, or quantised panels
  int64_t first_column;             // of y
  int64_t columns;
};
inline constexpr int kMostDealtParts = 2;  // gate, up

template <typename T>
struct DealtProducts {
  int64_t experts;
  int64_t pairs;      // of all experts
  int64_t most_rows;  // of an expert
  int64_t in;
  const int32_t* starts;      // [experts + 1]
  const int32_t* input_rows;  // [pairs], or nullptr: a pair reads its own row of x
  Rows<const T> x;
  Rows<T> y;  // [pairs]
  DealtPart parts[kMostDealtParts];
  int32_t num_parts;
};
// Each product a sum in f32, in the order of `in` alone; an expert's weights are read once for each few rows.
template <typename T>
cudaError_t LaunchDealtProducts(const DealtProducts<T>& products, cudaStream_t stream);
// The same with weights in panels (cpu/quantized_panels.h), as LaunchQuantizedDot multiplies them.
template <typename T>
cudaError_t LaunchDealtQuantized(const DealtProducts<T>& products, Quantization quantization, cudaStream_t stream);

}  // namespace lorad::cuda
