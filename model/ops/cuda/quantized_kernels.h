#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "model/ops/cuda/row_kernels.h"
#include "model/quantization.h"

// Products with quantised weights, queued on a stream. The weights lie as on the host (cpu/quantized_panels.h): a
// block's words of 16 columns are side by side, so that a warp reads whole sectors. Pointers are the device's, strides
// in elements; T is float or __nv_bfloat16.
namespace lorad::cuda {

// Columns of a weight, the first of them the first of a panel.
struct QuantizedColumns {
  Quantization quantization;  // not kNone
  int64_t in;
  int64_t columns;        // the last panel may lack some
  const uint8_t* panels;  // 16-byte aligned
};

// y[r, c] = sum_k x[r, k] W'[c, k] of kFewRows rows or fewer, in f32; each byte of the weight is read once. A result is
// the same bits whatever rows are beside it.
inline constexpr int64_t kFewRows = 16;
template <typename T>
cudaError_t LaunchQuantizedDot(const QuantizedColumns& weight, int64_t rows, const Rows<const T>& x, const Rows<T>& y,
                               cudaStream_t stream);

// w [columns, in] = W', rounded to T.
template <typename T>
cudaError_t LaunchDequantize(const QuantizedColumns& weight, T* w, cudaStream_t stream);

}  // namespace lorad::cuda
