#include "model/quantization.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "model/base/check.h"
#include "model/ops/cpu/bf16.h"

namespace lorad {
namespace {

constexpr float kInt8Most = 127.0f;
constexpr float kInt4Least = -8.0f, kInt4Most = 7.0f, kInt4Steps = 15.0f;

// Half to even, for numbers far below 2^22: two additions, which compilers vectorise.
float Round(float v) {
  constexpr float kWhole = 12582912.0f;  // 1.5 * 2^23: from here on floats are whole
  return (v + kWhole) - kWhole;
}

float RoundToBf16(float v) {
  uint16_t bf16;
  cpu::Put(v, &bf16);
  return cpu::Widen(bf16);
}

GroupFactors Int8Factors(float low, float high) { return {.scale = std::max(-low, high) / kInt8Most}; }

GroupFactors Int4Factors(float low, float high) {
  const float scale = RoundToBf16((high - low) / kInt4Steps);
  return {.scale = scale, .zero = RoundToBf16(low - kInt4Least * scale)};
}

}  // namespace

std::string_view Name(Quantization quantization) {
  switch (quantization) {
    case Quantization::kNone:
      return "none";
    case Quantization::kInt8:
      return "int8";
    case Quantization::kInt4:
      return "int4";
  }
  return "?";
}

bool IsQuantized(Site site) {
  switch (site) {
    case Site::kQProj:
    case Site::kKProj:
    case Site::kVProj:
    case Site::kQkvProj:
    case Site::kOProj:
    case Site::kGateProj:
    case Site::kUpProj:
    case Site::kGateUpProj:
    case Site::kDownProj:
    case Site::kExpertGateUp:
    case Site::kExpertDown:
    case Site::kSharedGateProj:
    case Site::kSharedUpProj:
    case Site::kSharedDownProj:
      return true;
    default:
      return false;
  }
}

GroupFactors QuantizeGroup(Quantization quantization, const float* w, int64_t n, int8_t* q) {
  LORAD_CHECK(quantization != Quantization::kNone);
  float low = w[0], high = w[0], nothing = 0.0f;
  for (int64_t k = 0; k < n; ++k) {
    low = std::min(low, w[k]);
    high = std::max(high, w[k]);
    nothing += w[k] * 0.0f;  // NaN where w[k] is not finite
  }
  std::fill_n(q, n, int8_t{0});
  if (nothing != 0.0f) return {.scale = nothing, .zero = nothing};
  const bool int8 = quantization == Quantization::kInt8;
  const GroupFactors factors = int8 ? Int8Factors(low, high) : Int4Factors(low, high);
  if (factors.scale == 0.0f) return factors;
  const float least = int8 ? -kInt8Most : kInt4Least, most = int8 ? kInt8Most : kInt4Most;
  for (int64_t k = 0; k < n; ++k) {
    const float steps = std::clamp((w[k] - factors.zero) / factors.scale, least, most);
    q[k] = static_cast<int8_t>(Round(steps));
  }
  return factors;
}

void RoundToQuantized(Quantization quantization, int64_t rows, int64_t in, float* w) {
  std::array<int8_t, kQuantizedGroup> q;
  for (int64_t r = 0; r < rows; ++r, w += in) {
    for (int64_t k = 0; k < in; k += kQuantizedGroup) {
      const int64_t n = std::min(kQuantizedGroup, in - k);
      const GroupFactors factors = QuantizeGroup(quantization, w + k, n, q.data());
      for (int64_t i = 0; i < n; ++i) w[k + i] = factors.scale * static_cast<float>(q[i]) + factors.zero;
    }
  }
}

}  // namespace lorad
