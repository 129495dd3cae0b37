#pragma once

#include <cstdint>

#include "model/config.h"

namespace lorad::cpu {

// One row on one thread; T is float or uint16_t (bf16). Activations are computed in f32; a NaN stays one.

// y[i] = T(act(x[i])). y may be x.
void ActivateRow(Activation activation, const float* x, int64_t n, float* y);
void ActivateRow(Activation activation, const uint16_t* x, int64_t n, uint16_t* y);

// y[i] = T(T(act(gate[i])) * up[i]).
void ActivateMulRow(Activation activation, const float* gate, const float* up, int64_t n, float* y);
void ActivateMulRow(Activation activation, const uint16_t* gate, const uint16_t* up, int64_t n, uint16_t* y);

}  // namespace lorad::cpu
