#include "adapters/dora.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "adapters/float_convert.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

HostTensor TensorOf(std::vector<int64_t> shape, const std::vector<float>& values, DType dtype = DType::kF32) {
  auto bytes = std::make_shared<std::vector<std::byte>>(values.size() * SizeBytes(dtype));
  FromF32(values.data(), static_cast<int64_t>(values.size()), dtype, bytes->data());
  return {.dtype = dtype, .shape = std::move(shape), .bytes = bytes};
}

struct Problem {
  int64_t in = 0, out = 0, rank = 0;
  bool embedding = false;
  std::vector<float> weight, a, b, magnitude;  // weight [out, in], or [in, out] of an embedding

  Problem(int64_t of_in, int64_t of_out, int64_t of_rank, bool of_embedding, uint32_t seed)
      : in(of_in), out(of_out), rank(of_rank), embedding(of_embedding) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (const auto& [values, count] : {std::pair(&weight, in * out), std::pair(&a, rank * in),
                                        std::pair(&b, out * rank), std::pair(&magnitude, out)}) {
      values->resize(static_cast<size_t>(count));
      for (float& value : *values) value = normal(random);
    }
    for (float& m : magnitude) m = 1.0f + std::abs(m);
  }

  absl::StatusOr<DoraTerms> Compute(float scale, DType base = DType::kF32) const {
    const HostTensor stored = TensorOf({}, weight, base);
    const BaseTable table{base, embedding ? in : out, embedding ? out : in, stored.bytes->data()};
    return ComputeDoraTerms(table, embedding, TensorOf({rank, in}, a), TensorOf({out, rank}, b),
                            TensorOf({out}, magnitude), scale);
  }

  // With B A formed.
  double Factor(int64_t j, double scale) const {
    double square = 0.0;
    for (int64_t k = 0; k < in; ++k) {
      double w = weight[static_cast<size_t>(embedding ? k * out + j : j * in + k)];
      for (int64_t r = 0; r < rank; ++r) w += scale * b[j * rank + r] * a[r * in + k];
      square += w * w;
    }
    return magnitude[static_cast<size_t>(j)] / std::sqrt(square);
  }
};

void ExpectFactors(const Problem& p, float scale) {
  const absl::StatusOr<DoraTerms> terms = p.Compute(scale);
  ASSERT_THAT(terms, IsOk());
  ASSERT_EQ(terms->out(), p.out);
  for (const float w : {1.0f, 0.25f, 2.0f, -1.0f, 0.0f}) {
    std::vector<float> factors(static_cast<size_t>(p.out));
    DoraFactors(terms->values.data(), p.out, w, 0, p.out, factors.data());
    for (int64_t j = 0; j < p.out; ++j) {
      // Of squared norms, whose terms may nearly cancel.
      const double m = p.magnitude[static_cast<size_t>(j)];
      const auto square = [m](double factor) { return m * m / (factor * factor); };
      const double size = square(p.Factor(j, scale)) + square(p.Factor(j, 0.0));
      EXPECT_NEAR(square(factors[static_cast<size_t>(j)]), square(p.Factor(j, static_cast<double>(w) * scale)),
                  1e-5 * size)
          << "column " << j << ", scale " << w;
    }
  }
}

TEST(DoraTest, FactorsAreMagnitudeOverTheNormOfTheAdaptedWeightAtAnyScale) {
  for (const int64_t in : {1, 7, 64, 300}) {
    for (const int64_t rank : {1, 3, 16}) ExpectFactors(Problem(in, 70, rank, false, 1), 0.5f);
  }
}

TEST(DoraTest, OfAnEmbeddingTheNormsAreOverTheVocabulary) {
  for (const int64_t vocab : {5, 64, 200}) ExpectFactors(Problem(vocab, 33, 4, true, 2), 2.0f);
}

TEST(DoraTest, ANarrowBaseIsReadAsItIs) {
  Problem p(40, 9, 2, false, 3);
  const DoraTerms terms = p.Compute(1.5f, DType::kBF16).value();
  for (float& w : p.weight) {
    const uint32_t bits = static_cast<uint32_t>(Bf16FromF32(w)) << 16;
    std::memcpy(&w, &bits, sizeof(w));
  }
  for (int64_t j = 0; j < p.out; ++j) EXPECT_NEAR(terms.values[j], p.Factor(j, 1.5), 1e-5);
}

TEST(DoraTest, ANormOfZeroIsRefused) {
  Problem p(8, 3, 1, false, 4);
  std::fill(p.weight.begin() + 8, p.weight.begin() + 16, 0.0f);
  p.b[1] = 0.0f;
  const absl::Status status = p.Compute(1.0f).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(status.message()).find("row 1"), std::string::npos) << status;
}

}  // namespace
}  // namespace lorad
