#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/ops/cuda/quantized_kernels.h"
#include "model/quantization.h"

namespace lorad::cuda {

// Whether weights of this form are multiplied on tensor cores (cuda/quantized_tiles.h): not once CheckQuantizedTiles
// has found that they come out different, or they are left out.
bool UsesQuantizedTiles(Quantization quantization);
// Compares them with our kernel of few rows, on LibTorch's current device. A line for each form that differs or fails;
// `used`, if there is one, gets the names of those that do not.
std::vector<std::string> CheckQuantizedTiles(std::vector<std::string>* used);
void LeaveOutQuantizedTiles();
// y = x W'^T of bf16 rows by it, queued on the current stream.
cudaError_t MultiplyTiles(const at::Tensor& x, const QuantizedColumns& weight, at::Tensor& y);

}  // namespace lorad::cuda
