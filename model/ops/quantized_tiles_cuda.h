#pragma once

#include <string>
#include <vector>

#include "model/quantization.h"

namespace lorad::cuda {

// Whether weights of this form are multiplied on tensor cores (cuda/quantized_tiles.h): not once CheckQuantizedTiles
// has found that they come out different, or they are left out.
bool UsesQuantizedTiles(Quantization quantization);
// Compares them with our kernel of few rows, on LibTorch's current device. A line for each form that differs or fails;
// `used`, if there is one, gets the names of those that do not.
std::vector<std::string> CheckQuantizedTiles(std::vector<std::string>* used);
void LeaveOutQuantizedTiles();

}  // namespace lorad::cuda
