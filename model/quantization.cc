#include "model/quantization.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/base/check.h"
#include "model/e4m3.h"
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

GroupFactors Int4Factors(float low, float high) {
  const float scale = RoundToBf16((high - low) / kInt4Steps);
  return {.scale = scale, .zero = RoundToBf16(low - kInt4Least * scale)};
}

GroupFactors FactorsOf(Quantization quantization, float low, float high) {
  if (quantization == Quantization::kInt4) return Int4Factors(low, high);
  return {.scale = std::max(-low, high) / (quantization == Quantization::kInt8 ? kInt8Most : kMostE4m3)};
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
    case Quantization::kFp8:
      return "fp8";
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

GroupFactors QuantizeGroup(Quantization quantization, const float* w, int64_t n, int8_t* codes) {
  LORAD_CHECK(quantization != Quantization::kNone);
  float low = w[0], high = w[0], nothing = 0.0f;
  for (int64_t k = 0; k < n; ++k) {
    low = std::min(low, w[k]);
    high = std::max(high, w[k]);
    nothing += w[k] * 0.0f;  // NaN where w[k] is not finite
  }
  std::fill_n(codes, n, int8_t{0});
  if (nothing != 0.0f) return {.scale = nothing, .zero = nothing};
  const GroupFactors factors = FactorsOf(quantization, low, high);
  if (factors.scale == 0.0f) return factors;
  if (quantization == Quantization::kFp8) {
    for (int64_t k = 0; k < n; ++k) codes[k] = static_cast<int8_t>(ToE4m3(w[k] / factors.scale));
    return factors;
  }
  const bool int8 = quantization == Quantization::kInt8;
  const float least = int8 ? -kInt8Most : kInt4Least, most = int8 ? kInt8Most : kInt4Most;
  for (int64_t k = 0; k < n; ++k) {
    const float steps = std::clamp((w[k] - factors.zero) / factors.scale, least, most);
    codes[k] = static_cast<int8_t>(Round(steps));
  }
  return factors;
}

float NumberOf(Quantization quantization, int8_t code) {
  return quantization == Quantization::kFp8 ? FromE4m3(static_cast<uint8_t>(code)) : static_cast<float>(code);
}

void RoundToQuantized(Quantization quantization, int64_t rows, int64_t in, float* w) {
  const int64_t inputs = InputsOfFactors(quantization, in);
  std::vector<int8_t> codes(static_cast<size_t>(inputs));
  for (int64_t r = 0; r < rows; ++r, w += in) {
    for (int64_t k = 0; k < in; k += inputs) {
      const int64_t n = std::min(inputs, in - k);
      const GroupFactors factors = QuantizeGroup(quantization, w + k, n, codes.data());
      for (int64_t i = 0; i < n; ++i) w[k + i] = factors.scale * NumberOf(quantization, codes[i]) + factors.zero;
    }
  }
}

}  // namespace lorad
