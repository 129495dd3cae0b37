#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "model/expert_rows.h"
#include "model/ops/dealt_experts.h"
#include "tests/op/op_testing.h"
#include "tests/op/quantized_testing.h"

namespace lorad {
namespace {

// What rows chose, and how they were dealt.
struct Deal {
  int64_t k;
  std::vector<int32_t> chosen;  // [R, k]
  std::vector<float> weights;   // [R, k]
  DealtRows dealt;

  int64_t rows() const { return std::ssize(chosen) / k; }
  int32_t Start(int64_t e) const { return dealt.starts.const_data_ptr<int32_t>()[e]; }
  int32_t RowOf(int64_t pair) const { return dealt.rows.const_data_ptr<int32_t>()[pair]; }
};

// Distinct experts of each row; some rows choose fewer than k, some none.
Deal RandomDeal(int64_t rows, int64_t k, int64_t experts, bool all, Numbers& numbers) {
  Deal deal = {k, {}, {}, DealtRows::Empty(rows, k, experts, at::kCPU)};
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t first = numbers.Below(experts), missing = all ? k : numbers.Below(2 * k);
    for (int64_t j = 0; j < k; ++j) {
      deal.chosen.push_back(j == missing ? -1 : static_cast<int32_t>((first + j * (j + 1) / 2) % experts));
      for (int64_t i = r * k; i < r * k + j; ++i) {
        if (deal.chosen[static_cast<size_t>(i)] == deal.chosen.back()) deal.chosen.back() = -1;
      }
      deal.weights.push_back(numbers.Uniform(0.0f, 1.0f));
    }
  }
  at::Tensor weights = at::empty({rows, k}, at::kFloat);
  std::copy(deal.weights.begin(), deal.weights.end(), weights.mutable_data_ptr<float>());
  EXPECT_OK(DealToExperts({Ints(deal.chosen, {rows, k}), weights, deal.dealt}));
  return deal;
}

template <typename T>
std::vector<T> Values(const at::Tensor& t) {
  return {t.const_data_ptr<T>(), t.const_data_ptr<T>() + t.numel()};
}

// By its definition, and as the host groups rows.
void ExpectDealt(const Deal& deal, int64_t experts) {
  std::vector<int32_t> starts = {0}, rows, pairs(deal.chosen.size(), -1);
  std::vector<float> weights(deal.chosen.size(), 0.0f);
  std::vector<int64_t> next(static_cast<size_t>(deal.rows()));  // of a row's pairs
  for (int64_t e = 0; e < experts; ++e) {
    for (int64_t i = 0; i < std::ssize(deal.chosen); ++i) {
      if (deal.chosen[i] != e) continue;
      const int64_t row = i / deal.k, place = row * deal.k + next[row]++;
      pairs[place] = static_cast<int32_t>(rows.size());
      weights[place] = deal.weights[i];
      rows.push_back(static_cast<int32_t>(row));
    }
    starts.push_back(static_cast<int32_t>(rows.size()));
  }
  EXPECT_EQ(Values<int32_t>(deal.dealt.starts), starts);
  EXPECT_EQ(Values<int32_t>(deal.dealt.pairs), pairs);
  EXPECT_EQ(Values<float>(deal.dealt.weights), weights);
  const std::vector<int32_t> dealt = Values<int32_t>(deal.dealt.rows);
  EXPECT_TRUE(std::equal(rows.begin(), rows.end(), dealt.begin()));
  for (const int32_t row : dealt) EXPECT_TRUE(row >= 0 && row < deal.rows()) << row;  // nobody's, too

  const ExpertRows grouped = GroupByExpert(deal.chosen, deal.weights, deal.rows(), experts);
  EXPECT_EQ(grouped.starts, starts);
  EXPECT_EQ(grouped.rows, rows);
  EXPECT_EQ(grouped.pairs, pairs);
  EXPECT_EQ(grouped.weights, weights);
}

TEST(DealToExpertsTest, IsWhatTheHostGroupsForFewRowsAndForMany) {
  Numbers numbers(1);
  struct Size {
    int64_t rows, k, experts;
  };
  for (const auto& [rows, k, experts] : std::vector<Size>{{1, 1, 1},
                                                          {1, 8, 8},
                                                          {5, 2, 8},
                                                          {32, 8, 128},
                                                          {64, 4, 60},
                                                          {65, 4, 60},
                                                          {300, 2, 8},
                                                          {700, 8, 64},
                                                          {600, 1, 1024}}) {
    for (const bool all : {true, false}) {
      SCOPED_TRACE(testing::Message() << rows << " rows, " << k << " of " << experts);
      ExpectDealt(RandomDeal(rows, k, experts, all, numbers), experts);
    }
  }
}

TEST(DealToExpertsTest, RowsThatAllChooseOneExpertOrNone) {
  for (const int64_t rows : {1, 256, 257, 1000}) {
    for (const int32_t expert : {0, 4, -1}) {
      Deal deal = {1, std::vector<int32_t>(static_cast<size_t>(rows), expert),
                   std::vector<float>(static_cast<size_t>(rows), 0.5f), DealtRows::Empty(rows, 1, 5, at::kCPU)};
      ASSERT_OK(DealToExperts({Ints(deal.chosen, {rows, 1}), at::full({rows, 1}, 0.5f), deal.dealt}));
      ExpectDealt(deal, 5);
    }
  }
  const DealtRows none = DealtRows::Empty(0, 2, 3, at::kCPU);
  ASSERT_OK(DealToExperts({at::empty({0, 2}, at::kInt), at::empty({0, 2}, at::kFloat), none}));
  EXPECT_EQ(Values<int32_t>(none.starts), std::vector<int32_t>(4, 0));
}

TEST(DealToExpertsTest, NamesTheBadArgument) {
  const DealtRows dealt = DealtRows::Empty(3, 2, 4, at::kCPU);
  const at::Tensor chosen = Ints(std::vector<int32_t>(6, 0), {3, 2}), weights = at::full({3, 2}, 1.0f);
  EXPECT_INVALID(DealToExperts({chosen, at::full({3, 3}, 1.0f), dealt}), "weights");
  EXPECT_INVALID(DealToExperts({chosen, weights, DealtRows::Empty(4, 2, 4, at::kCPU)}), "rows");
  EXPECT_INVALID(DealToExperts({chosen, weights, DealtRows::Empty(3, 2, 0, at::kCPU)}), "starts: no experts");
}

class DealtExpertsTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  at::Tensor Filled(std::vector<int64_t> shape, float value) const {
    return lorad::Filled(GetParam(), std::move(shape), [=](int64_t) { return value; });
  }
};

// Weights [E] of [out, in], and the numbers that are computed with.
struct Weights {
  std::vector<at::Tensor> numbers;
  std::vector<LinearWeight> weights;
};
Weights RandomWeights(at::ScalarType dtype, Quantization quantization, int64_t experts, int64_t out, int64_t in,
                      Numbers& numbers) {
  const float size = 1.0f / std::sqrt(static_cast<float>(in));
  Weights made;
  for (int64_t e = 0; e < experts; ++e) {
    const bool whole = quantization == Quantization::kNone;
    const at::Tensor w = Random(whole ? dtype : at::kFloat, {out, in}, numbers, size);
    made.numbers.push_back(whole ? w : Rounded(quantization, w));
    made.weights.push_back(whole ? LinearWeight::Prepare(w) : LinearWeight::Quantize(w, quantization));
  }
  return made;
}

// y of each pair by a loop, in columns [first, first + out).
void ExpectProducts(const Deal& deal, const at::Tensor& x, bool by_row, const Weights& w, int64_t first,
                    const at::Tensor& y, double absolute) {
  const int64_t in = x.size(1), out = w.numbers[0].size(0), width = y.size(1);
  std::vector<double> expected;
  at::Tensor part = at::empty({deal.Start(std::ssize(w.numbers)), out}, y.options());
  for (int64_t e = 0; e < std::ssize(w.numbers); ++e) {
    for (int64_t p = deal.Start(e); p < deal.Start(e + 1); ++p) {
      for (int64_t c = 0; c < out; ++c) {
        double sum = 0;
        for (int64_t i = 0; i < in; ++i)
          sum += At(x, (by_row ? deal.RowOf(p) : p) * in + i) * At(w.numbers[e], c * in + i);
        expected.push_back(sum);
        Put(part, p * out + c, At(y, p * width + first + c));
      }
    }
  }
  ExpectClose(part, expected, absolute, Epsilon(y.scalar_type()));
}

TEST_P(DealtExpertsTest, LinearEqualsTheLoopAndLeavesWhatIsNobodys) {
  Numbers numbers(2);
  constexpr int64_t kExperts = 5;
  for (const int64_t rows : {1, 2, 7, 21}) {
    for (const int64_t in : {1, 20, 64, 257, 272}) {
      const Deal deal = RandomDeal(rows, 3, kExperts, /*all=*/false, numbers);
      const int64_t pairs = deal.dealt.num_pairs();
      const Weights first = RandomWeights(GetParam(), Quantization::kNone, kExperts, 13, in, numbers);
      const Weights second = RandomWeights(GetParam(), Quantization::kNone, kExperts, 8, in, numbers);
      const ExpertWeights of_first(first.weights), of_second(second.weights);
      const DealtLinearPart parts[] = {{of_second, 14}, {of_first, 0}};
      for (const bool by_row : {true, false}) {
        const at::Tensor x = Random(GetParam(), {by_row ? rows : pairs, in}, numbers);
        at::Tensor y = Filled({pairs, 23}, 7.0f);
        ASSERT_OK(DealtLinear({x, parts, deal.dealt.starts, by_row ? deal.dealt.rows : at::Tensor(), rows, y}));
        ExpectProducts(deal, x, by_row, first, 0, y, 4e-6);
        ExpectProducts(deal, x, by_row, second, 14, y, 4e-6);
        for (int64_t p = 0; p < pairs; ++p) {
          EXPECT_EQ(At(y, p * 23 + 13), 7.0f);
          EXPECT_EQ(At(y, p * 23 + 22), 7.0f);
          if (p >= deal.Start(kExperts)) {
            EXPECT_EQ(At(y, p * 23), 7.0f) << "pair " << p;
          }
        }
      }
    }
  }
}

// Sizes that a library's grouped GEMM multiplies, where it is used (gpu_ops_test --fast).
TEST_P(DealtExpertsTest, LinearOfAlignedPartsEqualsTheLoop) {
  Numbers numbers(6);
  constexpr int64_t kExperts = 5, kFirst = 16, kSecond = 8, kSecondColumn = 24, kWidth = 40;
  for (const int64_t rows : {1, 7, 45}) {
    for (const int64_t in : {64, 272}) {
      const Deal deal = RandomDeal(rows, 3, kExperts, /*all=*/false, numbers);
      const int64_t pairs = deal.dealt.num_pairs();
      const Weights first = RandomWeights(GetParam(), Quantization::kNone, kExperts, kFirst, in, numbers);
      const Weights second = RandomWeights(GetParam(), Quantization::kNone, kExperts, kSecond, in, numbers);
      const ExpertWeights of_first(first.weights), of_second(second.weights);
      const DealtLinearPart parts[] = {{of_first, 0}, {of_second, kSecondColumn}};
      for (const bool by_row : {true, false}) {
        const at::Tensor x = Random(GetParam(), {by_row ? rows : pairs, in}, numbers);
        at::Tensor y = Filled({pairs, kWidth}, 7.0f);
        ASSERT_OK(DealtLinear({x, parts, deal.dealt.starts, by_row ? deal.dealt.rows : at::Tensor(), rows, y}));
        ExpectProducts(deal, x, by_row, first, 0, y, 1e-5);
        ExpectProducts(deal, x, by_row, second, kSecondColumn, y, 1e-5);
        for (int64_t p = 0; p < pairs; ++p) {
          EXPECT_EQ(At(y, p * kWidth + kFirst), 7.0f);
          EXPECT_EQ(At(y, p * kWidth + kWidth - 1), 7.0f);
        }
      }
    }
  }
}

TEST_P(DealtExpertsTest, LinearOfQuantizedWeightsMultipliesTheRoundedOnes) {
  Numbers numbers(3);
  constexpr int64_t kExperts = 4, kIn = 200, kOut = 36;
  for (const Quantization quantization : kQuantizedForms) {
    for (const int64_t rows : {1, 3, 19}) {
      const Deal deal = RandomDeal(rows, 2, kExperts, /*all=*/false, numbers);
      const Weights w = RandomWeights(GetParam(), quantization, kExperts, kOut, kIn, numbers);
      const ExpertWeights of_experts(w.weights);
      const at::Tensor x = Random(GetParam(), {rows, kIn}, numbers);
      at::Tensor y = Filled({deal.dealt.num_pairs(), 2 * kOut}, 7.0f);
      const DealtLinearPart parts[] = {{of_experts, 0}, {of_experts, kOut}};
      ASSERT_OK(DealtLinear({x, parts, deal.dealt.starts, deal.dealt.rows, rows, y}));
      ExpectProducts(deal, x, /*by_row=*/true, w, 0, y, 1e-5);
      ExpectProducts(deal, x, /*by_row=*/true, w, kOut, y, 1e-5);
    }
  }
}

TEST_P(DealtExpertsTest, ARowHasTheSameBitsInAnyCompany) {
  Numbers numbers(4);
  constexpr int64_t kExperts = 3, kIn = 96, kOut = 24, kRows = 20;
  for (const Quantization quantization : {Quantization::kNone, Quantization::kInt8}) {
    const ExpertWeights w(RandomWeights(GetParam(), quantization, kExperts, kOut, kIn, numbers).weights);
    const at::Tensor x = Random(GetParam(), {kRows, kIn}, numbers);
    const DealtLinearPart parts[] = {{w, 0}};
    const Deal deal = RandomDeal(kRows, 2, kExperts, /*all=*/true, numbers);
    at::Tensor y = Filled({deal.dealt.num_pairs(), kOut}, 0.0f), alone = Filled({1, kOut}, 0.0f);
    ASSERT_OK(DealtLinear({x, parts, deal.dealt.starts, deal.dealt.rows, kRows, y}));
    for (int64_t e = 0; e < kExperts; ++e) {
      std::vector<int32_t> starts(kExperts + 1, 0);
      std::fill(starts.begin() + e + 1, starts.end(), 1);
      for (int64_t p = deal.Start(e); p < deal.Start(e + 1); ++p) {
        ASSERT_OK(DealtLinear({x, parts, Ints(starts), Ints({deal.RowOf(p)}), 1, alone}));
        ASSERT_EQ(RowBytes(alone, 0), RowBytes(y, p)) << "expert " << e << ", pair " << p;
      }
    }
  }
}

TEST_P(DealtExpertsTest, LinearReadsNeitherExpertsWithoutRowsNorOthersRows) {
  Numbers numbers(5);
  Weights w = RandomWeights(GetParam(), Quantization::kNone, 3, 8, 16, numbers);
  for (const size_t unused : {0, 2}) {
    for (int64_t i = 0; i < 8 * 16; ++i) Put(w.numbers[unused], i, std::numeric_limits<float>::quiet_NaN());
  }
  const ExpertWeights of_experts(w.weights);
  const DealtLinearPart parts[] = {{of_experts, 0}};
  at::Tensor x = Random(GetParam(), {4, 16}, numbers), y = Filled({3, 8}, 0.0f);
  for (int64_t i = 0; i < 16; ++i) Put(x, 3 * 16 + i, std::numeric_limits<float>::quiet_NaN());
  ASSERT_OK(DealtLinear({x, parts, Ints({0, 0, 2, 2}), Ints({0, 3, 3}), 4, y}));
  for (int64_t i = 0; i < y.numel(); ++i) EXPECT_EQ(std::isnan(At(y, i)), i / 8 == 1) << i;
}

TEST_P(DealtExpertsTest, LinearNamesTheBadArgument) {
  Numbers numbers(6);
  const ExpertWeights w(RandomWeights(GetParam(), Quantization::kNone, 2, 8, 16, numbers).weights);
  const ExpertWeights narrow(RandomWeights(GetParam(), Quantization::kNone, 2, 8, 15, numbers).weights);
  const at::Tensor x = Random(GetParam(), {3, 16}, numbers), none;
  at::Tensor y = Filled({3, 8}, 0.0f);
  const DealtLinearPart parts[] = {{w, 0}}, right[] = {{w, 1}}, other[] = {{narrow, 0}};
  const at::Tensor starts = Ints({0, 1, 3});
  EXPECT_OK(DealtLinear({x, parts, starts, none, 3, y}));
  EXPECT_INVALID(DealtLinear({x, right, starts, none, 3, y}), "parts: columns 1 to 9");
  EXPECT_INVALID(DealtLinear({x, other, starts, none, 3, y}), "parts: a weight of 15 inputs");
  EXPECT_INVALID(DealtLinear({x, parts, Ints({0, 3}), none, 3, y}), "parts: 2 weights");
  EXPECT_INVALID(DealtLinear({x, parts, starts, Ints({0, 1}), 3, y}), "rows");
  EXPECT_INVALID(DealtLinear({x.narrow(0, 0, 2), parts, starts, none, 3, y}), "rows: none");
  EXPECT_INVALID(DealtLinear({x, parts, starts, none, 0, y}), "most_rows: 0");
}

TEST_P(DealtExpertsTest, CombinesPairsInOrderWithTheSharedExpert) {
  Numbers numbers(7);
  for (const int64_t width : {5, 700}) {
    const at::Tensor x = Random(GetParam(), {8, width}, numbers), shared = Random(GetParam(), {4, width}, numbers);
    const at::Tensor logits = Random(GetParam(), {4, 1}, numbers, 3.0f);
    const at::Tensor pairs = Ints({0, 7, 3, -1, -1, -1, 5, 5}, {4, 2});
    const at::Tensor weights =
        lorad::Filled(at::kFloat, {4, 2}, [](int64_t i) { return 0.25f * static_cast<float>(i + 1); });
    for (const bool with_shared : {false, true}) {
      at::Tensor y = Filled({4, width}, 0.0f);
      ASSERT_OK(CombineDealt(
          {x, pairs, weights, with_shared ? shared : at::Tensor(), with_shared ? logits : at::Tensor(), y}));
      std::vector<double> expected;
      for (int64_t r = 0; r < 4; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          double sum = with_shared ? At(shared, r * width + c) / (1 + std::exp(-At(logits, r))) : 0;
          for (int64_t j = 2 * r; j < 2 * r + 2; ++j) {
            const int32_t pair = pairs.const_data_ptr<int32_t>()[j];
            if (pair >= 0) sum += At(weights, j) * At(x, pair * width + c);
          }
          expected.push_back(sum);
        }
      }
      ExpectClose(y, expected, 2e-6, Epsilon(GetParam()));
    }
  }
  const at::Tensor none, x = Random(GetParam(), {8, 4}, numbers);
  at::Tensor y = Filled({2, 4}, 0.0f);
  EXPECT_INVALID(CombineDealt({x, Ints({0, 1, 2}, {3, 1}), at::full({3, 1}, 1.0f), none, none, y}), "pairs");
  EXPECT_INVALID(CombineDealt({x, Ints({0, 1}, {2, 1}), at::full({2, 2}, 1.0f), none, none, y}), "weights");
}

TEST_P(DealtExpertsTest, CombinesIntoSomeRowsAloneAndAddsToThem) {
  Numbers numbers(8);
  constexpr int64_t kWidth = 530;
  const at::Tensor x = Random(GetParam(), {5, kWidth}, numbers), before = Random(GetParam(), {4, kWidth}, numbers),
                   none;
  const std::vector<int32_t> to_rows = {1, -1, 3}, of_rows = {0, 4, 1, 1, 2, -1};
  const std::vector<float> of_pairs = {0.25f, 0.75f, 9.0f, 9.0f, 1.5f, 0.0f};
  const at::Tensor rows = Ints(to_rows), pairs = Ints(of_rows, {3, 2});
  const at::Tensor weights =
      lorad::Filled(at::kFloat, {3, 2}, [&](int64_t i) { return of_pairs[static_cast<size_t>(i)]; });
  for (const bool add : {false, true}) {
    at::Tensor y = before.clone();
    ASSERT_OK(CombineDealt({x, pairs, weights, none, none, y, rows, add}));
    std::vector<double> expected;
    for (int64_t i = 0; i < y.numel(); ++i) expected.push_back(At(before, i));
    for (const size_t q : {0, 2}) {
      for (int64_t c = 0; c < kWidth; ++c) {
        double& value = expected[static_cast<size_t>(to_rows[q] * kWidth + c)];
        if (!add) value = 0;
        for (size_t j = 2 * q; j < 2 * q + 2; ++j) {
          if (of_rows[j] >= 0) value += of_pairs[j] * At(x, of_rows[j] * kWidth + c);
        }
      }
    }
    ExpectClose(y, expected, 2e-6, Epsilon(GetParam()));
    for (const int64_t r : {0, 2}) EXPECT_EQ(RowBytes(y, r), RowBytes(before, r));
  }
  at::Tensor y = before.clone();
  EXPECT_INVALID(CombineDealt({x, pairs, weights, x, none, y, rows}), "shared");
  at::Tensor of_three = before.narrow(0, 0, 3).clone();
  EXPECT_INVALID(CombineDealt({x, pairs, weights, before.narrow(0, 0, 2), none, of_three}), "shared: [2");
}

INSTANTIATE_TEST_SUITE_P(Cpu, DealtExpertsTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
