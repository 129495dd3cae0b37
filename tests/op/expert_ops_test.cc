#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "model/ops/cpu_ops.h"
#include "model/ops/expert_linear.h"
#include "model/ops/route_top_k.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

class ExpertOpsTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  at::Tensor Empty(std::vector<int64_t> shape) const { return at::empty(shape, at::TensorOptions().dtype(GetParam())); }
};

// Pairs of random rows: an expert may have none, one, all or some rows.
struct Pairs {
  std::vector<int32_t> starts = {0};
  std::vector<int32_t> rows;
};
Pairs RandomPairs(int64_t rows, int64_t experts, Numbers& numbers) {
  Pairs pairs;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t of_four = e % 4 == 0 ? 0 : e % 4 == 1 ? 4 : numbers.Below(3) + 1;
    for (int64_t r = 0; r < rows; ++r) {
      if (numbers.Below(4) < of_four) pairs.rows.push_back(static_cast<int32_t>(r));
    }
    pairs.starts.push_back(static_cast<int32_t>(pairs.rows.size()));
  }
  return pairs;
}

struct Weights {
  std::vector<at::Tensor> tensors;
  std::vector<LinearWeight> prepared;
};
Weights RandomWeights(at::ScalarType dtype, int64_t experts, int64_t out, int64_t in, Numbers& numbers,
                      bool packed = false) {
  Weights weights;
  for (int64_t e = 0; e < experts; ++e) {
    weights.tensors.push_back(Random(dtype, {out, in}, numbers, 1.0f / std::sqrt(static_cast<float>(in))));
    const at::Tensor& w = weights.tensors.back();
    weights.prepared.push_back(packed ? LinearWeight::Pack(w.clone()) : LinearWeight::Prepare(w));
  }
  return weights;
}

TEST_P(ExpertOpsTest, LinearEqualsTheLoopForOddSizes) {
  Numbers numbers(1);
  constexpr int64_t kExperts = 6;
  for (const int64_t rows : {1, 2, 7, 45}) {
    for (const auto& [in, packed] : std::vector<std::pair<int64_t, bool>>{
             {1, false}, {20, false}, {64, false}, {257, false}, {1, true}, {20, true}, {64, true}, {257, true}}) {
      const Pairs pairs = RandomPairs(rows, kExperts, numbers);
      const at::Tensor x = Random(GetParam(), {rows, in}, numbers);
      const Weights first = RandomWeights(GetParam(), kExperts, 13, in, numbers, packed);
      const Weights second = RandomWeights(GetParam(), kExperts, 8, in, numbers, packed);
      at::Tensor y = Empty({std::ssize(pairs.rows), 21});
      const std::vector<ExpertLinearPart> parts = {{second.prepared, 13}, {first.prepared, 0}};
      ASSERT_OK(ExpertLinear({x, parts, pairs.starts, pairs.rows, y}));
      std::vector<double> expected;
      for (int64_t e = 0; e < kExperts; ++e) {
        for (int64_t p = pairs.starts[e]; p < pairs.starts[e + 1]; ++p) {
          for (int64_t c = 0; c < 21; ++c) {
            const at::Tensor& w = c < 13 ? first.tensors[e] : second.tensors[e];
            double sum = 0;
            for (int64_t k = 0; k < in; ++k)
              sum += At(x, pairs.rows[p] * in + k) * At(w, (c < 13 ? c : c - 13) * in + k);
            expected.push_back(sum);
          }
        }
      }
      ExpectClose(y, expected, 4e-6, Epsilon(GetParam()));
    }
  }
}

TEST_P(ExpertOpsTest, LinearHasTheBitsOfLinearAloneAndInAnyCompany) {
  Numbers numbers(2);
  constexpr int64_t kExperts = 8, kOut = 40;
  for (const auto& [in, packed] : std::vector<std::pair<int64_t, bool>>{
           {48, false}, {96, false}, {1000, false}, {48, true}, {96, true}, {1000, true}}) {
    const at::Tensor x = Random(GetParam(), {60, in}, numbers);
    const Weights w = RandomWeights(GetParam(), kExperts, kOut, in, numbers, packed);
    const Pairs pairs = RandomPairs(60, kExperts, numbers);
    at::Tensor y = Empty({std::ssize(pairs.rows), kOut}), alone = Empty({1, kOut});
    const std::vector<ExpertLinearPart> parts = {{w.prepared, 0}};
    ASSERT_OK(ExpertLinear({x, parts, pairs.starts, pairs.rows, y}));
    for (int64_t e = 0; e < kExperts; ++e) {
      for (int64_t p = pairs.starts[e]; p < pairs.starts[e + 1]; ++p) {
        ASSERT_OK(Linear({x.narrow(0, pairs.rows[p], 1), w.prepared[e], alone}));
        ASSERT_EQ(RowBytes(alone, 0), RowBytes(y, p)) << "expert " << e << ", pair " << p;
      }
    }
    // The same rows without indices.
    const at::Tensor gathered = Empty({std::ssize(pairs.rows), in});
    for (int64_t p = 0; p < std::ssize(pairs.rows); ++p) gathered.narrow(0, p, 1).copy_(x.narrow(0, pairs.rows[p], 1));
    at::Tensor again = Empty({y.size(0), y.size(1)});
    ASSERT_OK(ExpertLinear({gathered, parts, pairs.starts, {}, again}));
    EXPECT_TRUE(again.equal(y));
  }
}

TEST_P(ExpertOpsTest, LinearNeverReadsAnExpertWithoutRows) {
  Numbers numbers(3);
  Weights w = RandomWeights(GetParam(), 3, 8, 16, numbers);
  for (const int64_t unused : {0, 2}) {
    for (int64_t i = 0; i < 8 * 16; ++i) Put(w.tensors[unused], i, std::numeric_limits<float>::quiet_NaN());
  }
  at::Tensor x = Random(GetParam(), {4, 16}, numbers), y = Empty({2, 8});
  for (int64_t k = 0; k < 16; ++k) Put(x, 3 * 16 + k, std::numeric_limits<float>::quiet_NaN());
  ASSERT_OK(ExpertLinear({x, std::vector<ExpertLinearPart>{{w.prepared, 0}}, {0, 0, 2, 2}, {0, 2}, y}));
  for (int64_t i = 0; i < y.numel(); ++i) EXPECT_FALSE(std::isnan(At(y, i)));
  ASSERT_OK(ExpertLinear({x, std::vector<ExpertLinearPart>{{w.prepared, 0}}, {0, 0, 2, 2}, {0, 3}, y}));
  for (int64_t i = 0; i < y.numel(); ++i) EXPECT_EQ(std::isnan(At(y, i)), i >= 8);
}

TEST_P(ExpertOpsTest, LinearNamesTheBadArgument) {
  Numbers numbers(4);
  const Weights w = RandomWeights(GetParam(), 2, 8, 16, numbers);
  const at::Tensor x = Random(GetParam(), {3, 16}, numbers);
  at::Tensor y = Empty({3, 8});
  const std::vector<ExpertLinearPart> parts = {{w.prepared, 0}}, right = {{w.prepared, 1}};
  EXPECT_OK(ExpertLinear({x, parts, {0, 1, 3}, {}, y}));
  EXPECT_INVALID(ExpertLinear({x, right, {0, 1, 3}, {}, y}), "parts: columns 1 to 9");
  EXPECT_INVALID(ExpertLinear({x, parts, {0, 3}, {}, y}), "parts: 2 weights");
  EXPECT_INVALID(ExpertLinear({x, parts, {0, 2, 1}, {}, y}), "starts");
  EXPECT_INVALID(ExpertLinear({x, parts, {0, 1, 3}, {0, 1}, y}), "rows: 2 for 3 pairs");
  EXPECT_INVALID(ExpertLinear({x, parts, {0, 1, 3}, {0, 1, 3}, y}), "rows");
  EXPECT_INVALID(ExpertLinear({x.narrow(1, 0, 15), parts, {0, 1, 3}, {}, y}), "weight: [8, 16]");
}

TEST_P(ExpertOpsTest, RoutesToTheLargestProbabilities) {
  Numbers numbers(5);
  for (const int64_t experts : {1, 4, 60}) {
    for (const int64_t k : {int64_t{1}, std::min<int64_t>(3, experts), experts}) {
      const at::Tensor logits = Random(GetParam(), {9, experts}, numbers, 4.0f);
      at::Tensor chosen = Ints(std::vector<int32_t>(9 * k), {9, k}), weights = at::empty({9, k}, at::kFloat);
      for (const bool renormalise : {false, true}) {
        ASSERT_OK(RouteTopK({logits, renormalise, chosen, weights}));
        for (int64_t r = 0; r < 9; ++r) {
          std::vector<std::pair<double, int64_t>> p;
          double sum = 0, chosen_sum = 0;
          for (int64_t e = 0; e < experts; ++e) sum += std::exp(static_cast<double>(At(logits, r * experts + e)));
          for (int64_t e = 0; e < experts; ++e) p.push_back({-std::exp(At(logits, r * experts + e)) / sum, e});
          std::sort(p.begin(), p.end());
          for (int64_t j = 0; j < k; ++j) chosen_sum -= p[j].first;
          for (int64_t j = 0; j < k; ++j) {
            EXPECT_EQ(chosen.const_data_ptr<int32_t>()[r * k + j], p[j].second);
            EXPECT_NEAR(At(weights, r * k + j), -p[j].first / (renormalise ? chosen_sum : 1), 1e-6);
          }
        }
      }
    }
  }
}

TEST_P(ExpertOpsTest, OfEqualsTheLowestNumberIsChosenAndANanRowStaysAlone) {
  at::Tensor logits = Filled(GetParam(), {3, 5}, [](int64_t i) { return i % 5 == 4 ? 1.0f : 0.0f; });
  Put(logits, 5 + 2, std::numeric_limits<float>::quiet_NaN());
  at::Tensor chosen = Ints(std::vector<int32_t>(9), {3, 3}), weights = at::empty({3, 3}, at::kFloat);
  ASSERT_OK(RouteTopK({logits, true, chosen, weights}));
  const int32_t* ids = chosen.const_data_ptr<int32_t>();
  EXPECT_THAT(std::vector<int32_t>(ids, ids + 3), testing::ElementsAre(4, 0, 1));
  EXPECT_THAT(std::vector<int32_t>(ids + 3, ids + 6), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(std::vector<int32_t>(ids + 6, ids + 9), testing::ElementsAre(4, 0, 1));
  for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(std::isnan(At(weights, i)), i / 3 == 1);
  at::Tensor too_many = Ints(std::vector<int32_t>(18), {3, 6}), six = at::empty({3, 6}, at::kFloat);
  EXPECT_INVALID(RouteTopK({logits, true, too_many, six}), "experts: 6 of a row");
  EXPECT_INVALID(RouteTopK({logits, true, chosen, six}), "weights: [3, 6]");
}

TEST_P(ExpertOpsTest, CombinesPairsInOrderWithTheSharedExpert) {
  Numbers numbers(6);
  for (const int64_t width : {5, 700}) {
    const at::Tensor x = Random(GetParam(), {8, width}, numbers), shared = Random(GetParam(), {4, width}, numbers);
    const at::Tensor logits = Random(GetParam(), {4, 1}, numbers, 3.0f);
    const std::vector<int32_t> pairs = {0, 7, 3, -1, -1, -1, 5, 5};
    const std::vector<float> weights = {0.25f, 0.75f, 1.5f, 9.0f, 9.0f, 9.0f, 0.5f, 0.125f};
    for (const bool with_shared : {false, true}) {
      at::Tensor y = Empty({4, width});
      ASSERT_OK(CombineExperts(
          {x, pairs, weights, with_shared ? shared : at::Tensor(), with_shared ? logits : at::Tensor(), y}));
      std::vector<double> expected;
      for (int64_t r = 0; r < 4; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          double sum = with_shared ? At(shared, r * width + c) / (1 + std::exp(-At(logits, r))) : 0;
          for (int64_t j = 2 * r; j < 2 * r + 2; ++j) {
            if (pairs[j] >= 0) sum += weights[j] * At(x, pairs[j] * width + c);
          }
          expected.push_back(sum);
        }
      }
      ExpectClose(y, expected, 1e-6, Epsilon(GetParam()));
    }
  }
}

TEST_P(ExpertOpsTest, CombinesIntoSomeRowsAloneAndAddsToThem) {
  Numbers numbers(8);
  constexpr int64_t kWidth = 530;
  const at::Tensor x = Random(GetParam(), {5, kWidth}, numbers), before = Random(GetParam(), {4, kWidth}, numbers);
  const std::vector<int32_t> rows = {1, 3}, pairs = {0, 4, 2, -1};
  const std::vector<float> weights = {0.25f, 0.75f, 1.5f, 9.0f};
  for (const bool add : {false, true}) {
    at::Tensor y = before.clone();
    ASSERT_OK(CombineExperts({x, pairs, weights, at::Tensor(), at::Tensor(), y, rows, add}));
    std::vector<double> expected;
    for (int64_t i = 0; i < y.numel(); ++i) expected.push_back(At(before, i));
    for (int64_t q = 0; q < 2; ++q) {
      for (int64_t c = 0; c < kWidth; ++c) {
        double& value = expected[rows[q] * kWidth + c];
        if (!add) value = 0;
        for (int64_t j = 2 * q; j < 2 * q + 2; ++j) {
          if (pairs[j] >= 0) value += weights[j] * At(x, pairs[j] * kWidth + c);
        }
      }
    }
    ExpectClose(y, expected, 1e-6, Epsilon(GetParam()));
    for (const int64_t r : {0, 2}) EXPECT_EQ(RowBytes(y, r), RowBytes(before, r));
  }
}

TEST_P(ExpertOpsTest, CombineNamesTheBadArgument) {
  Numbers numbers(7);
  const at::Tensor x = Random(GetParam(), {3, 6}, numbers);
  at::Tensor y = Empty({2, 6});
  const at::Tensor none;
  EXPECT_OK(CombineExperts({x, {0, 2}, {1.0f, 1.0f}, none, none, y}));
  EXPECT_INVALID(CombineExperts({x, {0, 3}, {1.0f, 1.0f}, none, none, y}), "pairs");
  EXPECT_INVALID(CombineExperts({x, {0, 1, 2}, {1.0f, 1.0f, 1.0f}, none, none, y}), "pairs: 3 for 2 rows");
  EXPECT_INVALID(CombineExperts({x, {0, 2}, {1.0f}, none, none, y}), "weights");
  EXPECT_INVALID(CombineExperts({x, {0, 2}, {1.0f, 1.0f}, x, none, y}), "shared: [3, 6]");
  const std::vector<int32_t> far = {2}, near = {1};
  EXPECT_INVALID(CombineExperts({x, {0, 2}, {1.0f, 1.0f}, none, none, y, far}), "rows: 1 rows");
  EXPECT_INVALID(CombineExperts({x, {0, 2, 1}, {1.0f, 1.0f, 1.0f}, x, none, y, near}), "rows");
}

INSTANTIATE_TEST_SUITE_P(Cpu, ExpertOpsTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
