#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "model/quantization.h"
#include "tests/op/op_testing.h"

namespace lorad {

// q [rows, in] f32 of weights in fp8, and their scales [rows, 1]: LibTorch's own e4m3 is the reference.
struct Fp8Reference {
  at::Tensor q, scales;
};
inline Fp8Reference Fp8Of(const at::Tensor& w) {
  at::Tensor scales = at::empty({w.size(0), 1}, w.options());
  for (int64_t r = 0; r < w.size(0); ++r) {
    float most = 0.0f;
    for (int64_t k = 0; k < w.size(1); ++k) most = std::max(most, std::fabs(At(w, r * w.size(1) + k)));
    Put(scales, r, most / 448.0f);
  }
  const at::Tensor in_range = at::where(scales > 0, w / scales, at::zeros_like(w)).clamp(-448.0, 448.0);
  return {in_range.to(at::kFloat8_e4m3fn).to(at::kFloat), scales};
}

// W' of w [rows, in], from its definition in model/quantization.h.
inline at::Tensor Rounded(Quantization quantization, const at::Tensor& w) {
  if (quantization == Quantization::kFp8) {
    const Fp8Reference fp8 = Fp8Of(w);
    return fp8.q * fp8.scales;
  }
  const int64_t in = w.size(1);
  at::Tensor made = at::empty(w.sizes(), at::kFloat);
  for (int64_t first = 0; first < w.numel(); first += in) {
    for (int64_t group = 0; group < in; group += 64) {
      const int64_t end = std::min(in, group + 64);
      float low = At(w, first + group), high = low;
      for (int64_t k = group; k < end; ++k) {
        low = std::min(low, At(w, first + k));
        high = std::max(high, At(w, first + k));
      }
      const bool int8 = quantization == Quantization::kInt8;
      const float scale = int8 ? std::max(-low, high) / 127 : RoundToBf16((high - low) / 15);
      const float zero = int8 ? 0 : RoundToBf16(low + 8 * scale);
      for (int64_t k = group; k < end; ++k) {
        const float steps = scale > 0 ? std::nearbyint((At(w, first + k) - zero) / scale) : 0;
        const float q = int8 ? std::clamp(steps, -127.0f, 127.0f) : std::clamp(steps, -8.0f, 7.0f);
        Put(made, first + k, scale * q + zero);
      }
    }
  }
  return made;
}

// x [R, in], w [out, in] -> x w^T in f64, row by row
inline std::vector<double> Products(const at::Tensor& x, const at::Tensor& w) {
  std::vector<double> products;
  for (int64_t r = 0; r < x.size(0); ++r) {
    for (int64_t c = 0; c < w.size(0); ++c) {
      double sum = 0;
      for (int64_t k = 0; k < x.size(1); ++k)
        sum += static_cast<double>(At(x, r * x.size(1) + k)) * At(w, c * x.size(1) + k);
      products.push_back(sum);
    }
  }
  return products;
}

}  // namespace lorad
