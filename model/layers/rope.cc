#include "model/layers/rope.h"

#include <algorithm>
#include <cmath>

#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/sin.h>

namespace lorad {
namespace {

constexpr int64_t kFirstPositions = 4096;

// Long waves are stretched by `factor`, short ones kept, those between interpolated.
float Llama3Frequency(float frequency, const RopeConfig& config) {
  const float original = static_cast<float>(config.original_max_positions);
  const float low = static_cast<float>(config.low_freq_factor);
  const float high = static_cast<float>(config.high_freq_factor);
  const float factor = static_cast<float>(config.factor);
  const float wavelength = static_cast<float>(2.0 * M_PI) / frequency;
  if (wavelength < original / high) return frequency;
  if (wavelength > original / low) return frequency / factor;
  const float smooth = (original / wavelength - low) / (high - low);
  return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

}  // namespace

at::Tensor RopeInverseFrequencies(const RopeConfig& config) {
  const at::TensorOptions fp32 = at::TensorOptions().dtype(at::kFloat);
  const at::Tensor exponents = at::arange(0, config.rotary_dim, 2, fp32).div_(static_cast<double>(config.rotary_dim));
  at::Tensor frequencies = at::reciprocal(at::pow(config.theta, exponents));
  if (config.scaling == RopeScaling::kLinear) frequencies.div_(config.factor);
  if (config.scaling == RopeScaling::kLlama3) {
    float* values = frequencies.mutable_data_ptr<float>();
    std::transform(values, values + frequencies.numel(), values,
                   [&](float frequency) { return Llama3Frequency(frequency, config); });
  }
  return frequencies;
}

RopeTables::RopeTables(const RopeConfig& config, int64_t max_positions, at::ScalarType dtype)
    : max_positions_(max_positions), dtype_(dtype), inverse_frequencies_(RopeInverseFrequencies(config)) {
  Reserve(std::min(kFirstPositions, max_positions));
}

void RopeTables::Reserve(int64_t positions) {
  const int64_t held = cos_.defined() ? cos_.size(0) : 0;
  if (positions <= held) return;
  const int64_t rows = std::max(std::min(2 * held, max_positions_), positions);
  const at::Tensor angles = at::outer(at::arange(rows, inverse_frequencies_.options()), inverse_frequencies_);
  cos_ = at::cos(angles).to(dtype_);
  sin_ = at::sin(angles).to(dtype_);
}

}  // namespace lorad
