#pragma once

#include <cstdint>
#include <vector>

#include "adapters/base_tables.h"
#include "adapters/image.h"

namespace lorad {

// DoRA: y = f * (W x + w s B A x), f = m / ||W + w s B A||, norms along each output row; w is the request's scale on
// top of the adapter's s. (Of an embedding [V, hidden] a "row" is a hidden coordinate: norms over the vocabulary.)
//
// With c0 = ||W_j||^2, c1 = W_j . (B A)_j, c2 = ||(B A)_j||^2, the norm n at w = 1 has n^2 = c0 + 2 s c1 + s^2 c2.
// Three vectors [out] tell f at any w: f at w = 1, u = 2 s c1 / n^2 and v = s^2 c2 / n^2, because
//   n_w^2 = n^2 (1 + (w - 1) u + (w^2 - 1) v).
// B A is never formed: c1 = sum_r B_jr (W A^T)_jr, c2 = B_j (A A^T) B_j^T.
// Source   arXiv 2402.09353; peft lora/dora.py.
struct DoraTerms {
  std::vector<float> values;  // [3, out]: f, u, v

  int64_t out() const { return static_cast<int64_t>(values.size()) / 3; }
};

// weight [out, in], or [V, hidden] if `embedding`; a [rank, in]; b [out, rank]; magnitude [out]. Sums in f32 and
// f64, on the calling thread. Errors: DataLoss for a norm of zero or a factor that is not finite.
absl::StatusOr<DoraTerms> ComputeDoraTerms(const BaseTable& weight, bool embedding, const HostTensor& a,
                                           const HostTensor& b, const HostTensor& magnitude, float scale);

// f at the request's scale w for columns first_column .. + columns. terms [3, out] as DoraTerms::values.
void DoraFactors(const float* terms, int64_t out, float w, int64_t first_column, int64_t columns, float* factors);

}  // namespace lorad
