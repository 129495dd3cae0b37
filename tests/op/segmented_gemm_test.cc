#include "adapters/ops/segmented_gemm.h"

#include <cmath>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "adapters/expert_load.h"
#include "model/ops/cpu/parallel.h"
#include "tests/op/segmented_problem.h"

namespace lorad {
namespace {

class SegmentedGemmTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
};

TEST_P(SegmentedGemmTest, EqualsTheLoopForOddWidthsAndRanks) {
  for (int64_t in : {1, 7, 33, 576, 4096}) {
    for (int64_t out : {1, 5, 17, 40, 130}) {
      Problem p(GetParam(),
                {.in = in,
                 .parts = {{0, out}},
                 .ranks = {1, 3, 8, 64, 513, 2},
                 .segments = {{1, {{0, 1.0f}}},
                              {2, {{1, 1.0f}}},
                              {5, {}},
                              {3, {{2, 1.0f}}},
                              {0, {{3, 1.0f}}},
                              {4, {{3, 1.0f}}},
                              {1, {{4, 1.0f}}},
                              {7, {{5, 1.0f}}}}},
                static_cast<uint64_t>(in * 1000 + out));
      const std::vector<double> expected = p.Expected();
      ASSERT_OK(p.Run());
      ExpectClose(p.y, expected, 2 * Epsilon(GetParam()), 2 * Epsilon(GetParam()));
    }
  }
}

TEST_P(SegmentedGemmTest, AddsTermsInOrderAndASlotMayAppearInSeveralSegments) {
  Problem p(GetParam(),
            {.in = 64,
             .parts = {{0, 32}, {40, 20}},
             .ranks = {8, 4, 96},
             .segments = {{3, {{0, 1.0f}, {1, 0.5f}, {0, -0.25f}}},
                          {2, {{1, 1.0f}}},
                          {4, {{2, 1.0f}, {0, 2.0f}}},
                          {1, {{1, 1.0f}}}}},
            6);
  const std::vector<double> expected = p.Expected();
  ASSERT_OK(p.Run());
  ExpectClose(p.y, expected, 3 * Epsilon(GetParam()), 3 * Epsilon(GetParam()));
}

// DoRA's factor is on what is there, terms before it included, and on its own update; a bias comes after all of
// them, and only the last one counts.
TEST_P(SegmentedGemmTest, EqualsTheLoopWithDoraAndBiases) {
  for (const int64_t rows_each : {1, 4, 70}) {
    const auto rows = static_cast<int32_t>(rows_each);
    Problem p(GetParam(),
              {.in = 72,
               .parts = {{0, 45}, {45, 333}},
               .ranks = {8, 4, 3, 0, 96, 5},
               .segments = {{rows, {{0, 1.0f}}},
                            {2, {}},
                            {rows, {{1, 1.0f}}},
                            {rows, {{2, 0.5f}}},
                            {rows, {{3, 1.0f}}},
                            {rows, {{4, 1.0f}, {0, -2.0f}, {2, 1.0f}}},
                            {rows, {{5, 2.0f}}},
                            {rows, {{2, 1.0f}, {0, 0.5f}}},    // a bias, then a factor
                            {rows, {{4, 1.0f}, {3, 1.0f}}}}},  // two biases
              21);
    p.AddVectors(0, /*dora=*/true, /*delta_bias=*/false, /*bias=*/false);
    p.AddVectors(1, false, true, false);
    p.AddVectors(2, true, false, true);
    p.AddVectors(3, false, false, true);  // a bias without a pair
    p.AddVectors(4, false, true, true);
    const std::vector<double> expected = p.Expected();
    ASSERT_OK(p.Run());
    ExpectClose(p.y, expected, 4 * Epsilon(GetParam()), 4 * Epsilon(GetParam()));
  }
}

TEST_P(SegmentedGemmTest, ColumnsOutsideThePartsStay) {
  Problem p(GetParam(), {.in = 32, .parts = {{8, 16}, {30, 7}}, .ranks = {4}, .segments = {{5, {{0, 1.0f}}}}}, 7);
  const at::Tensor before = p.y.clone();
  ASSERT_OK(p.Run());
  for (int64_t r = 0; r < 5; ++r) {
    for (int64_t c : {0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29}) {
      EXPECT_EQ(At(p.y, r * 37 + c), At(before, r * 37 + c)) << r << " " << c;
    }
  }
}

TEST_P(SegmentedGemmTest, BaseOnlyRowsKeepTheirBitsEvenWhenTheyAreNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Problem p(GetParam(),
            {.in = 48,
             .parts = {{0, 40}},
             .ranks = {8, 3},
             .segments = {{2, {}}, {3, {{0, 1.0f}}}, {4, {}}, {1, {{1, 1.0f}}}, {6, {}}}},
            8);
  for (int64_t r : {0, 1, 5, 6, 7, 8, 10, 15}) {
    for (int64_t c = 0; c < 48; ++c) Put(p.x, r * 48 + c, nan);
  }
  for (int64_t r : {0, 6, 11}) {
    for (int64_t c = 0; c < 40; ++c) Put(p.y, r * 40 + c, nan);
  }
  const at::Tensor before = p.y.clone();
  ASSERT_OK(p.Run());
  for (int64_t r : {0, 1, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15}) EXPECT_EQ(RowBytes(p.y, r), RowBytes(before, r)) << r;
  for (int64_t r : {2, 3, 4, 9}) {
    for (int64_t c = 0; c < 40; ++c) EXPECT_TRUE(std::isfinite(At(p.y, r * 40 + c)));
  }
}

TEST_P(SegmentedGemmTest, ASlotOfRankZeroLeavesItsRowsAlone) {
  Problem p(GetParam(),
            {.in = 16, .parts = {{0, 16}}, .ranks = {0, 2}, .segments = {{4, {{0, 1.0f}}}, {1, {{1, 1.0f}}}}}, 9);
  p.slots[0][0].a = nullptr;
  p.slots[0][0].b_t = nullptr;
  const at::Tensor before = p.y.clone();
  ASSERT_OK(p.Run());
  for (int64_t r = 0; r < 4; ++r) EXPECT_EQ(RowBytes(p.y, r), RowBytes(before, r));
  EXPECT_NE(RowBytes(p.y, 4), RowBytes(before, 4));
}

// A slot with a stack of pairs is that many slots, and rows read anywhere are those rows side by side.
TEST_P(SegmentedGemmTest, ATermMeansAnExpertAndRowsAreReadWhereTheyLie) {
  for (const int32_t each : {1, 5, 60}) {
    Problem p(GetParam(),
              {.in = 45,
               .parts = {{0, 30}, {30, 9}},
               .ranks = {6, 6, 6, 2},
               .segments = {{each, {{1, 1.0f}}}, {2, {}}, {each, {{0, 0.5f}}}, {3, {{2, 1.0f}, {3, 1.0f}}}}},
              31);
    for (const size_t slot : {0, 1, 2}) p.AddVectors(slot, /*dora=*/each == 5, /*delta_bias=*/false, /*bias=*/false);
    std::vector<std::vector<float>> dora(2);  // by part, of all experts
    Problem stacked = p;
    stacked.y = p.y.clone();
    for (size_t part = 0; part < 2; ++part) {
      stacked.a[part][0] = at::cat({p.a[part][0], p.a[part][1], p.a[part][2]});
      stacked.b_t[part][0] = at::cat({p.b_t[part][0], p.b_t[part][1], p.b_t[part][2]});
      for (size_t slot : {1, 2}) p.slots[part][slot].scale = p.slots[part][0].scale;
      stacked.slots[part][0].a = static_cast<const std::byte*>(stacked.a[part][0].const_data_ptr());
      stacked.slots[part][0].b_t = static_cast<const std::byte*>(stacked.b_t[part][0].const_data_ptr());
      stacked.slots[part][0].experts = 3;
      if (p.slots[part][0].dora == nullptr) continue;
      for (const size_t slot : {0, 1, 2}) {
        const float* const of_slot = p.slots[part][slot].dora;
        dora[part].insert(dora[part].end(), of_slot, of_slot + 3 * p.shape.parts[part].columns);
      }
      stacked.slots[part][0].dora = dora[part].data();
    }
    for (SlotTerm& term : stacked.rows.terms) {
      if (term.slot < 3) term = {.slot = 0, .scale = term.scale, .expert = term.slot};
    }
    const int64_t rows = p.rows.rows();
    at::Tensor scattered = at::empty({2 * rows, 45}, p.x.options());
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t place = (r * 11 + 3) % (2 * rows);  // 11 and 2 * rows have no common factor
      scattered.select(0, place).copy_(p.x.select(0, r));
      stacked.rows.input_rows.push_back(static_cast<int32_t>(place));
    }
    ASSERT_OK(p.Run());
    ASSERT_OK(stacked.Run(scattered, stacked.y, stacked.rows));
    for (int64_t r = 0; r < rows; ++r) ASSERT_EQ(RowBytes(stacked.y, r), RowBytes(p.y, r)) << each << " " << r;
  }
}

// A slot with a router adds every expert's update times its weight, and counts the rows that an expert got.
TEST_P(SegmentedGemmTest, ARouterWeighsTheExpertsOfEachRow) {
  constexpr int32_t kExperts = 4, kRank = 3;
  constexpr int64_t kIn = 40, kOut = 35;
  for (const int32_t rows_each : {1, 6, 70}) {
    for (const int32_t top_k : {1, 2, kExperts}) {
      Problem p(
          GetParam(),
          {.in = kIn,
           .parts = {{0, kOut}},
           .ranks = {kExperts * kRank, 5},
           .segments = {{rows_each, {{0, 0.5f}}}, {2, {{1, 1.0f}}}, {1, {}}, {rows_each, {{0, 1.0f}, {1, 1.0f}}}}},
          static_cast<uint64_t>(rows_each));
      Numbers numbers(9);
      std::vector<float> router(kExperts * kIn);
      for (float& value : router) value = numbers.Uniform(-1, 1);
      // What an expert alone adds, of the stack as plain slots; then weighed.
      std::vector<double> expected;
      std::vector<int64_t> rows_of(kExperts);
      for (int64_t i = 0; i < p.y.numel(); ++i) expected.push_back(At(p.y, i));
      for (int64_t g = 0; g < p.rows.groups(); ++g) {
        for (int64_t r = p.rows.starts[g]; r < p.rows.starts[g + 1]; ++r) {
          std::vector<double> weight(kExperts);
          std::vector<int> order(kExperts);
          for (int e = 0; e < kExperts; ++e) {
            double logit = 0;
            for (int64_t k = 0; k < kIn; ++k) logit += At(p.x, r * kIn + k) * router[e * kIn + k];
            weight[e] = std::exp(logit);
            order[e] = e;
          }
          std::sort(order.begin(), order.end(), [&](int a, int b) { return weight[a] > weight[b]; });
          double sum = 0;
          for (int j = 0; j < top_k; ++j) sum += weight[order[j]];
          for (int j = top_k; j < kExperts; ++j) weight[order[j]] = 0;
          for (int32_t t = p.rows.term_starts[g]; t < p.rows.term_starts[g + 1]; ++t) {
            const SlotTerm& term = p.rows.terms[t];
            const SlotWeights& w = p.slots[0][term.slot];
            for (int j = 0; term.slot == 0 && j < top_k; ++j) ++rows_of[order[j]];
            for (int64_t c = 0; c < kOut; ++c) {
              double delta = 0;
              for (int64_t j = 0; j < w.rank; ++j) {
                double h = 0;
                for (int64_t k = 0; k < kIn; ++k) h += At(p.x, r * kIn + k) * At(p.a[0][term.slot], j * kIn + k);
                delta += h * At(p.b_t[0][term.slot], j * kOut + c) * (term.slot == 0 ? weight[j / kRank] / sum : 1.0);
              }
              double& value = expected[r * kOut + c];
              value = RoundTo(GetParam(), static_cast<float>(value + term.scale * w.scale * delta));
            }
          }
        }
      }
      p.slots[0][0].rank = kRank;
      p.slots[0][0].experts = kExperts;
      p.slots[0][0].router = router.data();
      p.slots[0][0].router_top_k = top_k;
      ExpertLoad load(1, kExperts);
      p.slots[0][0].expert_rows = load.Counters(0);
      ASSERT_OK(p.Run());
      ExpectClose(p.y, expected, 4 * Epsilon(GetParam()), 4 * Epsilon(GetParam()));
      EXPECT_EQ(load.Rows(0), rows_of);
    }
  }
}

TEST_P(SegmentedGemmTest, NonFiniteWeightsOfOneAdapterStayWithItsRows) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const bool in_a : {true, false}) {
    Problem p(GetParam(),
              {.in = 40,
               .parts = {{0, 37}},
               .ranks = {8, 8, 3},
               .segments = {{2, {{0, 1.0f}}}, {2, {{1, 1.0f}}}, {1, {{2, 1.0f}}}, {2, {}}, {40, {{0, 1.0f}}}}},
              10);
    at::Tensor& bad = in_a ? p.a[0][1] : p.b_t[0][1];
    for (int64_t i = 0; i < bad.numel(); ++i) Put(bad, i, i % 2 == 0 ? nan : infinity);
    ASSERT_OK(p.Run());
    for (int64_t r = 0; r < p.y.size(0); ++r) {
      for (int64_t c = 0; c < 37; ++c) {
        EXPECT_EQ(std::isfinite(At(p.y, r * 37 + c)), r != 2 && r != 3) << r << " " << c;
      }
    }
  }
}

TEST_P(SegmentedGemmTest, WritesIntoColumnsOfALargerTensor) {
  Problem p(GetParam(), {.in = 24, .parts = {{0, 12}}, .ranks = {5}, .segments = {{3, {{0, 1.0f}}}}}, 11);
  Numbers numbers(12);
  const std::vector<double> expected = p.Expected();
  at::Tensor wide_x = Random(GetParam(), {3, 50}, numbers), wide_y = Random(GetParam(), {3, 31}, numbers);
  at::Tensor x = wide_x.narrow(1, 9, 24), y = wide_y.narrow(1, 3, 12);
  x.copy_(p.x);
  y.copy_(p.y);
  ASSERT_OK(p.Run(x, y, p.rows));
  ExpectClose(y.contiguous(), expected, 2 * Epsilon(GetParam()), 2 * Epsilon(GetParam()));
}

TEST_P(SegmentedGemmTest, NamesTheBadArgument) {
  Problem p(GetParam(), {.in = 8, .parts = {{0, 8}}, .ranks = {2, 2}, .segments = {{3, {{0, 1.0f}}}, {1, {{1, 1.0f}}}}},
            13);
  at::Tensor short_y = p.y.narrow(0, 0, 3);
  EXPECT_INVALID(p.Run(p.x, short_y, p.rows), "y: [3, 8]");
  at::Tensor narrow_y = p.y.narrow(1, 0, 7);
  EXPECT_INVALID(p.Run(p.x, narrow_y, p.rows), "parts: columns 0 to 8; limit: 0 to 7");
  at::Tensor other = p.y.to(GetParam() == at::kFloat ? at::kBFloat16 : at::kFloat);
  EXPECT_INVALID(p.Run(p.x, other, p.rows), "y: ");
  at::Tensor half = p.x.to(at::kHalf);
  EXPECT_INVALID(p.Run(half, p.y, p.rows), "x: [4, 8] Half; limit: Float or BFloat16");
  at::Tensor strided = at::empty({4, 16}, p.x.options()).slice(1, 0, 16, 2);
  EXPECT_INVALID(p.Run(strided, p.y, p.rows), "x: last dimension strided");
  RowSegments bad = p.rows;
  bad.starts.back() = 5;
  EXPECT_INVALID(p.Run(p.x, p.y, bad), "rows.starts");
  bad = p.rows;
  bad.starts[1] = 5;
  EXPECT_INVALID(p.Run(p.x, p.y, bad), "rows.starts");
  bad = p.rows;
  bad.term_starts.back() = 3;
  EXPECT_INVALID(p.Run(p.x, p.y, bad), "rows.term_starts");
  bad = p.rows;
  bad.terms[1].slot = 2;
  EXPECT_INVALID(p.Run(p.x, p.y, bad), "slot 2; limit: 0 to 1");
  bad = p.rows;
  bad.terms[1].expert = 1;
  EXPECT_INVALID(p.Run(p.x, p.y, bad), "expert 1; limit: 0 to 0");
  bad = p.rows;
  bad.input_rows = {0, 1, 2};
  EXPECT_INVALID(p.Run(p.x, p.y, bad), "rows.input_rows: 3 entries");
  bad.input_rows.push_back(4);
  EXPECT_INVALID(p.Run(p.x, p.y, bad), "row 4; limit: 0 to 3");
}

INSTANTIATE_TEST_SUITE_P(Cpu, SegmentedGemmTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
