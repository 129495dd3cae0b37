#pragma once

#include <cstdint>

#include "model/ops/cpu/quantized_panels.h"

namespace lorad::cpu {

// QuantizedDot by the processor's own bf16 instruction (where HasBf16Products): its numbers are exact in bf16.
void QuantizedDotBf16Products(const QuantizedDotArgs& args, uint16_t* y);

}  // namespace lorad::cpu
