#pragma once

#include <cstdint>

namespace lorad::cpu {

// Row by row operations on one thread; T is float or uint16_t (bf16). Computed in f32.

// y[i] = weight[i] * T(x[i] / sqrt(mean(x^2) + eps)). y may be x.
void RmsNormRow(const float* x, const float* weight, int64_t n, float eps, float* y);
void RmsNormRow(const uint16_t* x, const uint16_t* weight, int64_t n, float eps, uint16_t* y);
// y[i] = T(weight[i] * (x[i] / sqrt(mean(x^2) + eps))): rounded once.
void RmsNormRow(const uint16_t* x, const float* weight, int64_t n, float eps, uint16_t* y);

// y[i] = T((x[i] - mean) / sqrt(variance + eps) * weight[i] + bias[i]); weight and bias may be null. y may be x.
void LayerNormRow(const float* x, const float* weight, const float* bias, int64_t n, float eps, float* y);
void LayerNormRow(const uint16_t* x, const uint16_t* weight, const uint16_t* bias, int64_t n, float eps, uint16_t* y);

// residual[i] = T(residual[i] + x[i]).
void AddRow(const float* x, int64_t n, float* residual);
void AddRow(const uint16_t* x, int64_t n, uint16_t* residual);

// Half-split rotation of the first 2 `half` elements of x into y (may be x); the rest of n is copied.
void RotateRow(const float* x, const float* cos, const float* sin, int64_t half, int64_t n, float* y);
void RotateRow(const uint16_t* x, const uint16_t* cos, const uint16_t* sin, int64_t half, int64_t n, uint16_t* y);

// The largest element; NaN if any element is.
float MaxOf(const float* x, int64_t n);

// y[i] = exp((x[i] - shift) * factor), 0 for -infinity; y may be null. Returns their sum.
double ExpRow(const float* x, int64_t n, float shift, float factor, float* y);

}  // namespace lorad::cpu
