#include "model/layers/rope.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <c10/core/InferenceMode.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>

namespace lorad {
namespace {

constexpr int64_t kFirstPositions = 4096;
// On a device a table that grows is a wait, and drops every captured step: 33 MB of bf16 for 64 pairs.
constexpr int64_t kFirstPositionsOnDevice = int64_t{1} << 17;

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

// A larger base stretches the waves so that a sequence of (variant + 1) * original positions has the angles of a short
// one. NTK-aware scaling, as HF's "dynamic".
double DynamicTheta(const RopeConfig& config, int64_t variant) {
  const double dim = static_cast<double>(config.rotary_dim);
  const double stretch = config.factor * static_cast<double>(variant + 1) - (config.factor - 1);
  return config.theta * std::pow(stretch, dim / (dim - 2));
}

// Waves that turn more than beta_fast times within the original positions are kept, those of less than beta_slow turns
// are stretched by `factor`, a ramp lies between. YaRN, arXiv 2309.00071.
at::Tensor YarnFrequencies(const RopeConfig& config, const at::Tensor& powers) {
  const double dim = static_cast<double>(config.rotary_dim);
  const auto index_of = [&](double turns) {
    const double original = static_cast<double>(config.original_max_positions);
    return dim * std::log(original / (turns * 2 * M_PI)) / (2 * std::log(config.theta));
  };
  double low = index_of(config.beta_fast), high = index_of(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  const at::Tensor stretched =
      at::arange(config.rotary_dim / 2, powers.options()).sub_(low).div_(high - low).clamp_(0.0, 1.0);
  const at::Tensor kept = at::rsub(stretched, 1.0);
  return at::reciprocal(at::mul(powers, config.factor))
      .mul_(at::rsub(kept, 1.0))
      .add_(at::reciprocal(powers).mul_(kept));
}

}  // namespace

at::Tensor RopeInverseFrequencies(const RopeConfig& config, int64_t variant) {
  const at::TensorOptions fp32 = at::TensorOptions().dtype(at::kFloat);
  const at::Tensor exponents = at::arange(0, config.rotary_dim, 2, fp32).div_(static_cast<double>(config.rotary_dim));
  const double theta = config.scaling == RopeScaling::kDynamic ? DynamicTheta(config, variant) : config.theta;
  const at::Tensor powers = at::pow(theta, exponents);
  at::Tensor frequencies = at::reciprocal(powers);
  switch (config.scaling) {
    case RopeScaling::kNone:
    case RopeScaling::kDynamic:
      break;
    case RopeScaling::kLinear:
      frequencies.div_(config.factor);
      break;
    case RopeScaling::kYarn:
      return YarnFrequencies(config, powers);
    case RopeScaling::kLongRope:
      return at::reciprocal(
          at::mul(at::tensor(variant == 0 ? config.short_factors : config.long_factors, fp32), powers));
    case RopeScaling::kLlama3: {
      float* values = frequencies.mutable_data_ptr<float>();
      std::transform(values, values + frequencies.numel(), values,
                     [&](float frequency) { return Llama3Frequency(frequency, config); });
      break;
    }
  }
  return frequencies;
}

RopeTables::RopeTables(const RopeConfig& config, int64_t variant, int64_t max_positions, const at::TensorOptions& like)
    : max_positions_(max_positions),
      options_(like),
      attention_factor_(config.attention_factor),
      inverse_frequencies_(RopeInverseFrequencies(config, variant)) {
  Reserve(std::min(like.device().is_cpu() ? kFirstPositions : kFirstPositionsOnDevice, max_positions));
}

bool RopeTables::Reserve(int64_t positions) {
  const int64_t held = cos_.defined() ? cos_.size(0) : 0;
  if (positions <= held) return false;
  const int64_t rows = std::max(std::min(2 * held, max_positions_), positions);
  const c10::InferenceMode recorded(false);  // A forward may grow them, and training's backward reads them.
  const at::Tensor angles = at::outer(at::arange(rows, inverse_frequencies_.options()), inverse_frequencies_);
  cos_ = at::cos(angles).mul_(attention_factor_).to(options_);
  sin_ = at::sin(angles).mul_(attention_factor_).to(options_);
  return true;
}

Rope::Rope(const RopeConfig& config, const RopeSwitch& rope_switch, int64_t max_positions,
           const at::TensorOptions& like)
    : config_(config), switch_(rope_switch), max_positions_(max_positions), options_(like) {
  if (!like.device().is_cpu()) Tables(/*variant=*/0, /*positions=*/0);  // not in a step
}

const RopeTables& Rope::Tables(int64_t variant, int64_t positions) {
  RopeTables& tables = tables_.try_emplace(variant, config_, variant, max_positions_, options_).first->second;
  if (tables.Reserve(positions)) ++moves_;
  return tables;
}

RopeRows Rope::RowsOf(const ForwardBatch& batch, const at::Tensor& on_device) {
  std::vector<int64_t> variants;  // of the sequences
  for (const int64_t tokens : batch.sequence_tokens) variants.push_back(switch_.VariantOf(tokens));
  const int64_t first = variants.empty() ? 0 : variants[0];
  if (std::all_of(variants.begin(), variants.end(), [&](int64_t variant) { return variant == first; })) {
    const RopeTables& tables = Tables(first, batch.max_context_tokens);
    return {tables.cos(), tables.sin(), on_device};
  }
  // Lines of several tables, one for each row of the step.
  const int64_t rows = batch.positions.size(0);
  RopeRows mixed = {at::empty({rows, config_.rotary_dim / 2}, options_),
                    at::empty({rows, config_.rotary_dim / 2}, options_),
                    at::arange(rows, at::kInt).to(options_.device())};
  const int32_t* cu_rows = batch.cu_rows.const_data_ptr<int32_t>();
  const int32_t* positions = batch.positions.const_data_ptr<int32_t>();
  for (size_t s = 0; s < variants.size(); ++s) {
    const int64_t begin = cu_rows[s], count = cu_rows[s + 1] - begin;
    if (count == 0) continue;
    const RopeTables& tables = Tables(variants[s], batch.max_context_tokens);
    mixed.cos.narrow(0, begin, count).copy_(tables.cos().narrow(0, positions[begin], count));
    mixed.sin.narrow(0, begin, count).copy_(tables.sin().narrow(0, positions[begin], count));
  }
  return mixed;
}

}  // namespace lorad
