// Segments of many rows (prefill), for which a device has kernels of their own, and what rows promise whatever the
// number of their segment's.
#include <cmath>

#include <ATen/ops/empty.h>

#include "model/ops/cpu/parallel.h"
#include "tests/op/segmented_problem.h"

namespace lorad {
namespace {

class LongSegmentsTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }

  // Random batches of segments of so many rows at most; then every row alone must have the same bits.
  static void ExpectTheSameBitsAlone(int64_t most_rows) {
    Numbers numbers(77);
    const std::vector<int32_t> ranks = {1, 3, 8, 16, 64, 129};
    for (int round = 0; round < 24; ++round) {
      Shape shape = {.in = 1 + numbers.Below(round % 3 == 0 ? 1500 : 150), .parts = {}, .ranks = ranks, .segments = {}};
      int64_t column = 0;
      for (int64_t p = 0; p <= numbers.Below(3); ++p) {
        shape.parts.push_back({column, 1 + numbers.Below(300)});
        column += shape.parts.back().columns;
      }
      for (int64_t g = 0; g <= numbers.Below(12); ++g) {
        Segment segment = {static_cast<int32_t>(numbers.Below(round % 4 == 0 ? most_rows + 1 : 6)), {}};
        for (int64_t t = numbers.Below(3); t > 0; --t) {
          segment.terms.push_back({static_cast<int32_t>(numbers.Below(6)), numbers.Uniform(-1, 1)});
        }
        shape.segments.push_back(segment);
      }
      Problem p(GetParam(), shape, static_cast<uint64_t>(round));
      if (p.rows.rows() == 0) continue;
      const at::Tensor before = p.y.clone();
      cpu::SetComputeThreads(1 + round % 3);
      ASSERT_OK(p.Run());
      cpu::SetComputeThreads(2);
      for (int64_t g = 0; g < p.rows.groups(); ++g) {
        for (int64_t r = p.rows.starts[g]; r < p.rows.starts[g + 1]; ++r) {
          const at::Tensor x = p.x.narrow(0, r, 1).clone();
          at::Tensor y = before.narrow(0, r, 1).clone();
          ASSERT_OK(p.Run(x, y, SegmentsOf({{1, shape.segments[g].terms}})));
          ASSERT_EQ(RowBytes(y, 0), RowBytes(p.y, r)) << "round " << round << " row " << r;
        }
      }
    }
  }
};

// Rows about the edges of a device's tiles, ranks about those of its products, base rows in between.
TEST_P(LongSegmentsTest, EqualTheLoopForOddRowsRanksAndWidths) {
  struct Case {
    int64_t in, out;
    int32_t rank;
    std::vector<int32_t> rows;
  };
  for (const Case& c : {Case{33, 40, 1, {17, 16}},
                        {64, 130, 7, {63, 64}},
                        {200, 24, 8, {65, 17}},
                        {8, 33, 9, {64, 15, 65}},
                        {40, 264, 16, {20}},
                        {33, 17, 64, {200}},
                        {24, 136, 129, {17}},
                        {16, 8, 512, {18}},
                        {1100, 12, 5, {33}},
                        {4109, 8, 3, {17}}}) {
    std::vector<Segment> segments = {{2, {}}};
    for (const int32_t rows : c.rows) {
      segments.push_back({rows, {{0, 0.5f}}});
      segments.push_back({3, {}});
    }
    Problem p(GetParam(), {.in = c.in, .parts = {{0, c.out}}, .ranks = {c.rank}, .segments = segments},
              static_cast<uint64_t>(c.in * 1000 + c.rank));
    const at::Tensor before = p.y.clone();
    const std::vector<double> expected = p.Expected();
    ASSERT_OK(p.Run());
    SCOPED_TRACE(testing::Message() << "width " << c.in << ", rank " << c.rank);
    ExpectClose(p.y, expected, 2 * Epsilon(GetParam()), 2 * Epsilon(GetParam()));
    for (int64_t g = 0; g < p.rows.groups(); g += 2) {
      for (int64_t r = p.rows.starts[g]; r < p.rows.starts[g + 1]; ++r)
        EXPECT_EQ(RowBytes(p.y, r), RowBytes(before, r));
    }
  }
}

TEST_P(LongSegmentsTest, EqualTheLoopInSeveralParts) {
  Problem p(GetParam(),
            {.in = 96,
             .parts = {{0, 64}, {64, 24}, {88, 24}},
             .ranks = {16, 0, 4, 40},
             .segments = {{70, {{0, 1.0f}}}, {33, {{2, 1.0f}}}, {5, {{1, 1.0f}}}, {1, {{3, 1.0f}}}},
             .part_ranks = {{16, 0, 4, 0}, {0, 0, 9, 40}, {3, 0, 0, 200}}},
            5);
  const std::vector<double> expected = p.Expected();
  ASSERT_OK(p.Run());
  ExpectClose(p.y, expected, 2 * Epsilon(GetParam()), 2 * Epsilon(GetParam()));
}

// All that a term may bring, beside segments that bring it for few rows.
TEST_P(LongSegmentsTest, EqualTheLoopWithSeveralTermsDoraAndBiases) {
  Problem p(GetParam(),
            {.in = 56,
             .parts = {{3, 70}, {80, 8}},
             .ranks = {9, 16, 0, 33},
             .segments = {{17, {{0, 1.0f}, {1, -0.5f}, {2, 1.0f}}},
                          {1, {{0, 1.0f}, {1, 0.5f}}},
                          {65, {{3, 2.0f}, {0, 0.5f}}},
                          {4, {}},
                          {20, {{2, 1.0f}}}}},
            33);
  p.AddVectors(0, /*dora=*/true, /*delta_bias=*/true, /*bias=*/false);
  p.AddVectors(1, false, true, true);
  p.AddVectors(2, false, false, true);  // a bias without a pair
  p.AddVectors(3, true, false, true);
  const std::vector<double> expected = p.Expected();
  ASSERT_OK(p.Run());
  ExpectClose(p.y, expected, 4 * Epsilon(GetParam()), 4 * Epsilon(GetParam()));
}

TEST_P(LongSegmentsTest, ReadAndWriteColumnsOfLargerTensorsWhateverTheirAlignment) {
  Problem p(GetParam(), {.in = 64, .parts = {{0, 48}}, .ranks = {24}, .segments = {{30, {{0, 1.0f}}}}}, 11);
  Numbers numbers(12);
  const std::vector<double> expected = p.Expected();
  for (const int64_t first : {0, 1, 8}) {
    for (const int64_t more : {0, 3, 8}) {
      at::Tensor wide_x = Random(GetParam(), {30, first + 64 + more}, numbers);
      at::Tensor wide_y = Random(GetParam(), {30, first + 48 + more}, numbers);
      at::Tensor x = wide_x.narrow(1, first, 64), y = wide_y.narrow(1, first, 48);
      x.copy_(p.x);
      y.copy_(p.y);
      const at::Tensor around = wide_y.clone();
      ASSERT_OK(p.Run(x, y, p.rows));
      ExpectClose(y.contiguous(), expected, 2 * Epsilon(GetParam()), 2 * Epsilon(GetParam()));
      y.copy_(around.narrow(1, first, 48));
      for (int64_t r = 0; r < 30; ++r) EXPECT_EQ(RowBytes(wide_y, r), RowBytes(around, r));
    }
  }
}

// What B makes of two numbers that are the same in bf16 is their difference.
TEST_P(LongSegmentsTest, WhatLiesBetweenAAndBHasMoreBitsThanTheRows) {
  constexpr float kSmall = 1.0f / 4096;
  Problem p(GetParam(), {.in = 2, .parts = {{0, 9}}, .ranks = {2}, .segments = {{40, {{0, 1.0f}}}}}, 1);
  p.slots[0][0].scale = 1.0f;
  for (int64_t r = 0; r < 40; ++r) {
    Put(p.x, 2 * r, 1.0f);
    Put(p.x, 2 * r + 1, kSmall);
    for (int64_t c = 0; c < 9; ++c) Put(p.y, 9 * r + c, 0.0f);
  }
  const float of_a[4] = {1.0f, 1.0f, 1.0f, 0.0f};
  for (int64_t i = 0; i < 4; ++i) Put(p.a[0][0], i, of_a[i]);
  for (int64_t c = 0; c < 9; ++c) {
    Put(p.b_t[0][0], c, 1.0f);
    Put(p.b_t[0][0], 9 + c, -1.0f);
  }
  ASSERT_OK(p.Run());
  for (int64_t i = 0; i < p.y.numel(); ++i) ASSERT_EQ(At(p.y, i), kSmall) << i;
}

TEST_P(LongSegmentsTest, RowsOfShortSegmentsHaveTheSameBitsAloneAndInAnyBatch) { ExpectTheSameBitsAlone(16); }

// Not on a device for bf16, where tensor cores sum in an order of their own from 17 rows on.
TEST_P(LongSegmentsTest, RowsHaveTheSameBitsAlone) { ExpectTheSameBitsAlone(60); }

// The same rows in segments of other lengths, at other places, beside others.
TEST_P(LongSegmentsTest, RowsHaveTheSameBitsInAnyLongSegment) {
  for (const int64_t in : {72, 1030}) {
    Problem p(GetParam(),
              {.in = in, .parts = {{0, 20}, {20, 11}}, .ranks = {12, 20}, .segments = {{81, {{0, 1.0f}, {1, 0.5f}}}}},
              3);
    p.AddVectors(0, /*dora=*/true, /*delta_bias=*/true, /*bias=*/true);
    const at::Tensor before = p.y.clone();
    ASSERT_OK(p.Run());
    const std::vector<SlotTerm> terms = p.shape.segments[0].terms;
    for (const std::vector<Segment>& segments : {std::vector<Segment>{{17, terms}, {64, terms}},
                                                 {{20, terms}, {1, {}}, {60, terms}},
                                                 {{30, {{1, 1.0f}}}, {51, terms}}}) {
      at::Tensor y = before.clone();
      const RowSegments rows = SegmentsOf(segments);
      ASSERT_OK(p.Run(p.x, y, rows));
      for (size_t g = 0; g < segments.size(); ++g) {
        if (segments[g].terms.size() != terms.size()) continue;
        for (int64_t r = rows.starts[g]; r < rows.starts[g + 1]; ++r) ASSERT_EQ(RowBytes(y, r), RowBytes(p.y, r)) << r;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, LongSegmentsTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
