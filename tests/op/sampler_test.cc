#include "model/sampler/sampler.h"

#include <map>

#include "model/sampler/philox.h"
#include "model/ops/cpu/parallel.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

at::Tensor Logits(const std::vector<float>& values) {
  return Filled(at::kFloat, {1, static_cast<int64_t>(values.size())}, [&](int64_t i) { return values[i]; });
}
std::vector<double> Softmax(const std::vector<float>& logits, double temperature = 1.0) {
  std::vector<double> p;
  double total = 0, max = -1e300;
  for (float l : logits) max = std::max(max, static_cast<double>(l));
  for (float l : logits) total += p.emplace_back(std::exp((l - max) / temperature));
  for (double& v : p) v /= total;
  return p;
}

struct Input {
  SamplingOptions options;
  std::vector<int32_t> prompt, generated, banned;
};
SampleResult SampleWith(const at::Tensor& logits, const Input& in) {
  const SampleRow row = {0, &in.options, in.prompt, in.generated, in.banned};
  return Sample(logits, absl::MakeConstSpan(&row, 1));
}
int32_t TokenOf(const std::vector<float>& logits, const Input& in) {
  const SampleResult result = SampleWith(Logits(logits), in);
  EXPECT_OK(result.errors[0]);
  return result.tokens[0].token_id;
}
// How often each token comes in `draws` draws with seeds 0, 1, ….
std::vector<int> Counts(const std::vector<float>& logits, Input in, int draws) {
  std::vector<int> counts(logits.size());
  const at::Tensor tensor = Logits(logits);
  for (int i = 0; i < draws; ++i) {
    in.options.seed = static_cast<uint64_t>(i);
    ++counts[static_cast<size_t>(SampleWith(tensor, in).tokens[0].token_id)];
  }
  return counts;
}
// Chi-square of counts against probabilities: its mean is the number of cells, its deviation sqrt(2 cells).
void ExpectDistribution(const std::vector<int>& counts, const std::vector<double>& p) {
  double total = 0, chi = 0;
  int cells = 0;
  for (int c : counts) total += c;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
      continue;
    }
    chi += (counts[i] - total * p[i]) * (counts[i] - total * p[i]) / (total * p[i]);
    ++cells;
  }
  EXPECT_LT(chi, cells + 5 * std::sqrt(2.0 * cells));
}
std::vector<double> Only(std::vector<double> p, const std::vector<size_t>& kept) {
  double total = 0;
  for (size_t i : kept) total += p[i];
  std::vector<double> out(p.size());
  for (size_t i : kept) out[i] = p[i] / total;
  return out;
}
Input Greedy() {
  Input in;
  in.options.temperature = 0;
  return in;
}

const std::vector<float> kLogits = {1.0f, 0.0f, 2.0f, -1.0f, 0.5f, 1.5f, -3.0f, 0.2f};

TEST(PhiloxTest, GivesThePublishedWords) {  // Random123's known answers
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(SamplerTest, GreedyTakesTheLargestAndOfEqualOnesTheLowestId) {
  EXPECT_EQ(TokenOf(kLogits, Greedy()), 2);
  EXPECT_EQ(TokenOf({0, 3, 1, 3, 3}, Greedy()), 1);
  EXPECT_EQ(TokenOf({-kInfinity, -5, -kInfinity}, Greedy()), 1);
  std::vector<float> wide(5000, -1.0f);
  wide[4097] = 0.5f;
  EXPECT_EQ(TokenOf(wide, Greedy()), 4097);
}

TEST(SamplerTest, DrawsFollowTheSoftmax) { ExpectDistribution(Counts(kLogits, {}, 20000), Softmax(kLogits)); }

TEST(SamplerTest, DrawsFollowTheTemperature) {
  for (float temperature : {0.5f, 2.0f}) {
    Input in;
    in.options.temperature = temperature;
    ExpectDistribution(Counts(kLogits, in, 20000), Softmax(kLogits, temperature));
  }
}

TEST(SamplerTest, TinyOptionsStillGiveAToken) {
  for (float tiny : {1e-45f, 1e-40f, 1e-38f, 1e-6f, 1e-5f}) {
    Input cold;
    cold.options.temperature = tiny;
    EXPECT_EQ(TokenOf(kLogits, cold), 2) << tiny;
    EXPECT_EQ(TokenOf({-kInfinity, -1e30f, 1e30f, 3e38f}, cold), 3) << tiny;
    Input truncated;
    truncated.options.top_p = tiny;
    EXPECT_EQ(TokenOf(kLogits, truncated), 2) << tiny;
    truncated.options.min_p = tiny;
    EXPECT_EQ(TokenOf(kLogits, truncated), 2) << tiny;
    Input floored;
    floored.options.min_p = tiny;
    ExpectDistribution(Counts(kLogits, floored, 5000), Softmax(kLogits));
  }
}

TEST(SamplerTest, TopKKeepsTheLargestAndTheirEquals) {
  Input in;
  in.options.top_k = 3;
  ExpectDistribution(Counts(kLogits, in, 10000), Only(Softmax(kLogits), {2, 5, 0}));
  const std::vector<float> ties = {1, 2, 1, 0, 1};
  in.options.top_k = 2;
  ExpectDistribution(Counts(ties, in, 10000), Only(Softmax(ties), {1, 0, 2, 4}));
  in.options.top_k = 1;
  EXPECT_EQ(TokenOf(kLogits, in), 2);
  in.options.top_k = 100;
  ExpectDistribution(Counts(kLogits, in, 20000), Softmax(kLogits));
}

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  // 0.5, 0.3, 0.15, 0.05
  const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};
  const std::vector<double> p = Softmax(logits);
  Input in;
  in.options.top_p = 0.7f;
  ExpectDistribution(Counts(logits, in, 10000), Only(p, {1, 3}));
  in.options.top_p = 0.9f;
  ExpectDistribution(Counts(logits, in, 10000), Only(p, {1, 3, 0}));
  in.options.top_p = 0.4f;
  ExpectDistribution(Counts(logits, in, 1000), Only(p, {1}));
  in.options.top_p = 0.0f;
  ExpectDistribution(Counts(logits, in, 1000), Only(p, {1}));
  in.options.top_p = 0.7f;
  in.options.top_k = 2;  // first: of 0.625 and 0.375 the first alone does not reach 0.7
  ExpectDistribution(Counts(logits, in, 10000), Only(p, {1, 3}));
}

TEST(SamplerTest, TopPOverALargeVocabularyKeepsTheSameSetAsSortingAll) {
  Numbers numbers(3);
  std::vector<float> logits(3000);
  for (float& l : logits) l = numbers.Uniform(-1, 1);  // flat: most of the set is kept
  std::vector<size_t> order(logits.size()), kept;
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  const std::vector<double> p = Softmax(logits);
  double sum = 0;
  for (size_t i = 0; i < order.size() && (i == 0 || sum < 0.6); ++i) sum += p[order[i]], kept.push_back(order[i]);
  Input in;
  in.options.top_p = 0.6f;
  const std::vector<int> counts = Counts(logits, in, 6000);
  std::vector<double> only = Only(p, kept);
  only[order[kept.size() - 1]] = std::max(only[order[kept.size() - 1]], 1e-9);
  ExpectDistribution(counts, only);
}

TEST(SamplerTest, MinPKeepsWhatReachesItsShareOfTheLargest) {
  const std::vector<float> logits = {std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};
  Input in;
  in.options.min_p = 0.25f;
  ExpectDistribution(Counts(logits, in, 10000), Only(Softmax(logits), {1, 3, 0}));
  in.options.min_p = 1.0f;
  ExpectDistribution(Counts(logits, in, 1000), Only(Softmax(logits), {1}));
}

TEST(SamplerTest, LogitBiasAddsAndCanForbid) {
  Input in = Greedy();
  in.options.logit_bias = {{3, 5.0f}};
  EXPECT_EQ(TokenOf(kLogits, in), 3);
  in.options.logit_bias = {{2, -kInfinity}, {5, -100.0f}};
  EXPECT_EQ(TokenOf(kLogits, in), 0);
}

TEST(SamplerTest, BannedTokensNeverCome) {
  Input in = Greedy();
  in.banned = {2, 5};
  EXPECT_EQ(TokenOf(kLogits, in), 0);
  in.options.temperature = 1.0f;
  ExpectDistribution(Counts(kLogits, in, 20000), Only(Softmax(kLogits), {0, 1, 3, 4, 6, 7}));
}

TEST(SamplerTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOfPromptAndGenerated) {
  Input in;
  in.options.repetition_penalty = 2.0f;
  in.prompt = {2, 2, 3};
  in.generated = {5, 3};
  std::vector<float> expected = kLogits;
  expected[2] = 1.0f;
  expected[5] = 0.75f;
  expected[3] = -2.0f;
  ExpectDistribution(Counts(kLogits, in, 20000), Softmax(expected));
}

TEST(SamplerTest, PresenceAndFrequencyPenaltiesCountGeneratedTokensOnly) {
  Input in;
  in.options.presence_penalty = 0.5f;
  in.options.frequency_penalty = 0.25f;
  in.prompt = {0, 0, 0};
  in.generated = {2, 5, 2, 2};
  std::vector<float> expected = kLogits;
  expected[2] = 2.0f - 0.5f - 0.75f;
  expected[5] = 1.5f - 0.5f - 0.25f;
  ExpectDistribution(Counts(kLogits, in, 20000), Softmax(expected));
}

TEST(SamplerTest, ADrawDependsOnSeedAndPositionAlone) {
  Numbers numbers(8);
  const at::Tensor logits = Random(at::kFloat, {40, 3000}, numbers, 3.0f);
  std::vector<SamplingOptions> options(40);
  std::vector<std::vector<int32_t>> generated(40);
  std::vector<SampleRow> rows;
  for (int64_t i = 0; i < 40; ++i) {
    options[i].seed = static_cast<uint64_t>(i % 3);
    options[i].top_p = i % 2 == 0 ? 1.0f : 0.9f;
    generated[i].assign(static_cast<size_t>(i % 5), 1);
    rows.push_back({i, &options[i], {}, generated[i], {}});
  }
  cpu::SetComputeThreads(2);
  const SampleResult together = Sample(logits, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const SampleResult alone = Sample(logits, absl::MakeConstSpan(&rows[i], 1));
    EXPECT_EQ(alone.tokens[0].token_id, together.tokens[i].token_id);
  }
  Input a;
  a.options.seed = 11;
  std::map<int32_t, int> by_position;
  for (int i = 0; i < 200; ++i) {
    a.generated.assign(static_cast<size_t>(i), 0);
    ++by_position[SampleWith(logits, a).tokens[0].token_id];
  }
  EXPECT_GT(by_position.size(), 50u);
}

// Behind a row's vocabulary lie other rows' own tokens.
TEST(SamplerTest, ARowSeesItsOwnVocabularyAlone) {
  const at::Tensor wide = Logits({1, 2, 3, 9, 8}), narrow = Logits({1, 2, 3});
  SamplingOptions greedy = Greedy().options;
  greedy.logprobs = 5;
  SamplingOptions drawn;
  for (int i = 0; i < 50; ++i) {
    drawn.seed = static_cast<uint64_t>(i);
    const std::vector<SampleRow> rows = {
        {0, &greedy, {}, {}, {}, 3}, {0, &drawn, {}, {}, {}, 3}, {0, &greedy, {}, {}, {}}};
    const SampleResult result = Sample(wide, rows);
    EXPECT_EQ(result.tokens[0].token_id, 2);
    EXPECT_EQ(result.tokens[0].top.size(), 3u);
    EXPECT_EQ(result.tokens[0].logprob, LogprobOf(narrow, 0, 2, 0).logprob);
    EXPECT_LT(result.tokens[1].token_id, 3);
    EXPECT_EQ(result.tokens[2].token_id, 3);
  }
  EXPECT_EQ(LogprobOf(wide, 0, 1, 0, 3).logprob, LogprobOf(narrow, 0, 1, 0).logprob);
}

TEST(SamplerTest, ARowWithNanFailsAloneAndNamesItself) {
  at::Tensor logits = Filled(at::kFloat, {4, 20}, [](int64_t i) { return static_cast<float>(i % 20); });
  Put(logits, 20 + 3, std::numeric_limits<float>::quiet_NaN());
  for (int64_t i = 0; i < 20; ++i) Put(logits, 40 + i, -kInfinity);
  const SamplingOptions greedy = Greedy().options;
  const std::vector<SampleRow> rows = {
      {0, &greedy, {}, {}, {}}, {1, &greedy, {}, {}, {}}, {2, &greedy, {}, {}, {}}, {3, &greedy, {}, {}, {}}};
  const SampleResult result = Sample(logits, rows);
  EXPECT_OK(result.errors[0]);
  EXPECT_EQ(result.errors[1].code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(result.errors[1].message()), testing::HasSubstr("row 1"));
  EXPECT_EQ(result.errors[2].code(), absl::StatusCode::kInternal);
  EXPECT_OK(result.errors[3]);
  EXPECT_EQ(result.tokens[3].token_id, 19);
}

TEST(SamplerTest, LogprobsAreOfTheRawLogits) {
  Input in = Greedy();
  in.options.logprobs = 3;
  in.options.logit_bias = {{3, 50.0f}};
  const TokenLogprob token = SampleWith(Logits(kLogits), in).tokens[0];
  const std::vector<double> p = Softmax(kLogits);
  EXPECT_EQ(token.token_id, 3);
  EXPECT_NEAR(token.logprob, std::log(p[3]), 1e-6);
  ASSERT_EQ(token.top.size(), 3u);
  EXPECT_EQ(token.top[0].token_id, 2);
  EXPECT_EQ(token.top[1].token_id, 5);
  EXPECT_EQ(token.top[2].token_id, 0);
  for (const TopLogprob& t : token.top) EXPECT_NEAR(t.logprob, std::log(p[static_cast<size_t>(t.token_id)]), 1e-6);
  in.options.logprobs = 0;
  EXPECT_NEAR(SampleWith(Logits(kLogits), in).tokens[0].logprob, std::log(p[3]), 1e-6);
}

TEST(SamplerTest, LogprobsOfALargeVocabularyAreExact) {
  Numbers numbers(9);
  const at::Tensor logits = Random(at::kFloat, {2, 50257}, numbers, 20.0f);
  double max = -1e300, total = 0;
  for (int64_t i = 0; i < 50257; ++i) max = std::max<double>(max, At(logits, 50257 + i));
  for (int64_t i = 0; i < 50257; ++i) total += std::exp(At(logits, 50257 + i) - max);
  const TokenLogprob token = LogprobOf(logits, 1, 777, 5);
  EXPECT_NEAR(token.logprob, At(logits, 50257 + 777) - max - std::log(total), 4e-6);
  EXPECT_NEAR(token.top[0].logprob, -std::log(total), 4e-6);
  for (size_t i = 1; i < 5; ++i) EXPECT_GE(token.top[i - 1].logprob, token.top[i].logprob);
}

TEST(SamplerTest, EqualAlternativesComeByIdAndThereAreNoMoreThanTokens) {
  const TokenLogprob token = LogprobOf(Logits({1, 2, 2, 1}), 0, 0, 10);
  ASSERT_EQ(token.top.size(), 4u);
  EXPECT_EQ(token.top[0].token_id, 1);
  EXPECT_EQ(token.top[1].token_id, 2);
  EXPECT_EQ(token.top[2].token_id, 0);
  EXPECT_EQ(token.top[3].token_id, 3);
}

}  // namespace
}  // namespace lorad
