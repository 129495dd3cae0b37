#include "model/ops/cuda/quantized_kernels.cuh"

#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

int64_t PanelsOf(const QuantizedColumns& weight) { return (weight.columns + kPanelColumns - 1) / kPanelColumns; }

// Calls fn with the Quad of the weight's numbers.
template <typename Fn>
cudaError_t ForQuadOf(const QuantizedColumns& weight, const Fn& fn) {
  if (weight.quantization == Quantization::kInt8) return fn(Int8Quad());
  return weight.quantization == Quantization::kInt4 ? fn(Int4Quad()) : fn(Fp8Quad());
}

template <typename Quad, int R, typename T>
cudaError_t LaunchRows(const QuantizedColumns& weight, int64_t rows, const Rows<const T>& x, const Rows<T>& y,
                       cudaStream_t stream) {
  const dim3 grid = Grid((rows + R - 1) / R, PanelsOf(weight));
  return Launch(&QuantizedDotKernel<Quad, T, R>, grid, kDotWarps * kWarp, stream, weight, rows, x, y);
}

}  // namespace

template <typename T>
cudaError_t LaunchQuantizedDot(const QuantizedColumns& weight, int64_t rows, const Rows<const T>& x, const Rows<T>& y,
                               cudaStream_t stream) {
  return ForQuadOf(weight, [&](auto of_weight) {
    using Quad = decltype(of_weight);
    if (rows > kFewRows) return cudaErrorInvalidValue;
    if (rows > 1) return LaunchRows<Quad, 4>(weight, rows, x, y, stream);
    return LaunchRows<Quad, 1>(weight, rows, x, y, stream);
  });
}

template <typename T>
cudaError_t LaunchDequantize(const QuantizedColumns& weight, T* w, cudaStream_t stream) {
  return ForQuadOf(weight, [&](auto of_weight) {
    using Quad = decltype(of_weight);
    const dim3 grid = Grid(PanelsOf(weight), QuantizedGroups(weight.in));
    return Launch(&DequantizeKernel<Quad, T>, grid, kDequantizeThreads<Quad>, stream, weight, w);
  });
}

template cudaError_t LaunchQuantizedDot(const QuantizedColumns&, int64_t, const Rows<const float>&, const Rows<float>&,
                                        cudaStream_t);
template cudaError_t LaunchQuantizedDot(const QuantizedColumns&, int64_t, const Rows<const Bf16>&, const Rows<Bf16>&,
                                        cudaStream_t);
template cudaError_t LaunchDequantize(const QuantizedColumns&, float*, cudaStream_t);
template cudaError_t LaunchDequantize(const QuantizedColumns&, Bf16*, cudaStream_t);

}  // namespace lorad::cuda
