// Sampling on a device against Sample, which has tests of its own (tests/op/sampler_test.cc): the same
// tokens for the same seeds, errors and alternatives, and log-probabilities to the last digits of an exponential.
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "model/causal_lm.h"
#include "model/ops/draw_row.h"
#include "model/sampler/device_sampler.h"
#include "tests/component/golden_base.h"
#include "tests/device/test_device.h"
#include "tests/op/op_testing.h"
#include "tests/support/engine_fixture.h"

namespace lorad {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const at::Device kDevice(at::kCUDA, 0);

struct Input {
  SamplingOptions options;
  std::vector<int32_t> prompt = {}, generated = {}, banned = {};
  int64_t vocab_size = 0;
};
Input Greedy() {
  Input in;
  in.options.temperature = 0.0f;
  return in;
}
Input With(float temperature, int64_t top_k, float top_p, float min_p) {
  Input in;
  in.options.temperature = temperature;
  in.options.top_k = top_k;
  in.options.top_p = top_p;
  in.options.min_p = min_p;
  return in;
}

// Input i is of row i.
std::vector<SampleRow> RowsOf(const std::vector<Input>& inputs) {
  std::vector<SampleRow> rows;
  for (const Input& in : inputs) {
    rows.push_back({std::ssize(rows), &in.options, in.prompt, in.generated, in.banned, in.vocab_size});
  }
  return rows;
}
SampleResult OnDevice(const at::Tensor& logits, absl::Span<const SampleRow> rows) {
  at::Tensor on_device = logits.to(kDevice);
  absl::StatusOr<SampleResult> result = SampleOnDevice(on_device, rows);
  EXPECT_OK(result.status());
  return result.ok() ? *std::move(result) : SampleResult();
}

void ExpectAsSample(const at::Tensor& logits, const std::vector<Input>& inputs) {
  const std::vector<SampleRow> rows = RowsOf(inputs);
  const SampleResult expected = Sample(logits, rows), drawn = OnDevice(logits, rows);
  ASSERT_EQ(drawn.tokens.size(), rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const TokenLogprob &token = drawn.tokens[i], &wanted = expected.tokens[i];
    EXPECT_EQ(drawn.errors[i], expected.errors[i]) << "row " << i;
    if (!expected.errors[i].ok()) continue;
    EXPECT_EQ(token.token_id, wanted.token_id) << "row " << i;
    EXPECT_NEAR(token.logprob, wanted.logprob, 4e-6) << "row " << i;
    ASSERT_EQ(token.top.size(), wanted.top.size()) << "row " << i;
    for (size_t j = 0; j < token.top.size(); ++j) {
      EXPECT_EQ(token.top[j].token_id, wanted.top[j].token_id) << "row " << i;
      if (wanted.top[j].logprob != -kInfinity) {
        EXPECT_NEAR(token.top[j].logprob, wanted.top[j].logprob, 4e-6) << "row " << i;
      } else {
        EXPECT_EQ(token.top[j].logprob, -kInfinity) << "row " << i;
      }
    }
  }
}

// `times` rows of each input, with seeds and positions of their own.
std::vector<Input> Repeated(const std::vector<Input>& inputs, int times) {
  std::vector<Input> all;
  for (int t = 0; t < times; ++t) {
    for (Input in : inputs) {
      in.options.seed = all.size() * 977;
      if (in.generated.empty()) in.generated.assign(all.size() % 5, 1);
      all.push_back(std::move(in));
    }
  }
  return all;
}

TEST(DeviceSamplerTest, GreedyTakesTheLargestAndOfEqualOnesTheLowestId) {
  at::Tensor logits = Filled(at::kFloat, {5, 70}, [](int64_t i) { return static_cast<float>(i % 7) - 9.0f; });
  for (const int64_t id : {41, 67, 68}) Put(logits, 70 + id, 3.0f);
  for (int64_t id = 0; id < 70; ++id) Put(logits, 2 * 70 + id, id == 65 ? -5.0f : -kInfinity);
  for (int64_t id = 0; id < 70; ++id) Put(logits, 3 * 70 + id, id < 50 ? -1.0f : id == 60 ? -0.0f : 0.0f);
  Put(logits, 3 * 70 + 50, -0.0f);  // equal to the zeros behind it
  Put(logits, 4 * 70 + 69, 3e38f);
  ExpectAsSample(logits, std::vector<Input>(5, Greedy()));
}

TEST(DeviceSamplerTest, EveryOptionDrawsTheTokenOfSample) {
  std::vector<Input> inputs;
  for (const float temperature : {1e-5f, 0.3f, 1.0f, 2.5f}) inputs.push_back(With(temperature, 0, 1.0f, 0.0f));
  for (const int64_t top_k : {1, 2, 40, 299, 300, 1000}) inputs.push_back(With(1.0f, top_k, 1.0f, 0.0f));
  for (const float top_p : {0.0f, 1e-40f, 0.1f, 0.5f, 0.9f, 0.999f}) inputs.push_back(With(1.0f, 0, top_p, 0.0f));
  for (const float min_p : {1e-6f, 0.05f, 0.5f, 1.0f, 2.0f}) inputs.push_back(With(1.0f, 0, 1.0f, min_p));
  inputs.push_back(With(0.7f, 50, 0.9f, 0.02f));
  inputs.push_back(With(1.5f, 10, 0.99f, 0.3f));  // min_p takes more away than top_p
  inputs.push_back(With(1.5f, 0, 0.3f, 0.001f));
  for (size_t i = 0; i < inputs.size(); i += 2) inputs[i].options.logprobs = static_cast<int32_t>(i % 6);
  inputs = Repeated(inputs, 8);
  Numbers numbers(1);
  ExpectAsSample(Random(at::kFloat, {std::ssize(inputs), 300}, numbers, 4.0f), inputs);
}

// Candidates that are equal: all of the k-th stay, top_p cuts between them by id, and a draw finds one by id.
TEST(DeviceSamplerTest, EqualLogitsAreDrawnAsBySample) {
  const std::vector<Input> inputs =
      Repeated({With(1.0f, 3, 1.0f, 0.0f), With(1.0f, 0, 0.3f, 0.0f), With(1.0f, 20, 0.6f, 0.0f),
                With(2.0f, 0, 0.95f, 0.3f), With(0.5f, 0, 0.7f, 0.0f), With(1.0f, 0, 1.0f, 0.0f)},
               20);
  Numbers numbers(2);
  ExpectAsSample(
      Filled(at::kFloat, {std::ssize(inputs), 97}, [&](int64_t) { return static_cast<float>(numbers.Below(4)); }),
      inputs);
  ExpectAsSample(Filled(at::kFloat, {std::ssize(inputs), 64}, [](int64_t) { return -2.0f; }), inputs);
}

TEST(DeviceSamplerTest, LargeAndFlatVocabulariesToo) {
  const std::vector<Input> inputs = Repeated(
      {With(1.0f, 0, 1.0f, 0.0f), With(1.0f, 0, 0.6f, 0.0f), With(1.0f, 900, 0.99f, 0.0f), With(1.0f, 0, 1.0f, 0.9f)},
      3);
  Numbers numbers(3);
  ExpectAsSample(Random(at::kFloat, {std::ssize(inputs), 5003}, numbers, 1.0f), inputs);
  ExpectAsSample(Random(at::kFloat, {std::ssize(inputs), 1}, numbers, 1.0f), inputs);
}

TEST(DeviceSamplerTest, BiasBansAndPenaltiesChangeTheDrawAndNotTheLogprobs) {
  Input biased = Greedy(), banned = Greedy(), penalised = With(1.0f, 0, 0.9f, 0.0f), all = With(0.8f, 30, 0.95f, 0.01f);
  biased.options.logprobs = 4;
  biased.options.logit_bias = {{7, 50.0f}, {9, -100.0f}, {7, 1.0f}, {-1, 3.0f}, {1000, 3.0f}};
  banned.options.logprobs = 2;
  banned.options.logit_bias = {{3, kInfinity}, {4, 1e30f}};
  banned.banned = {3, 90, 400};
  penalised.options.repetition_penalty = 1.7f;
  penalised.options.logprobs = 0;
  penalised.prompt = {5, 5, 80, 17, 99, -3, 100};
  penalised.generated = {3, 5, 5};
  all.options.logprobs = 3;
  all.options.repetition_penalty = 0.6f;
  all.options.frequency_penalty = 0.4f;
  all.options.presence_penalty = -0.7f;
  all.options.logit_bias = {{17, 2.0f}, {3, -1.0f}, {55, -kInfinity}};
  all.prompt = {17, 20, 21, 20};
  all.generated = {3, 3, 17, 44, 55, 3};
  all.banned = {44, 21};
  const std::vector<Input> inputs = Repeated({biased, banned, penalised, all}, 12);
  Numbers numbers(4);
  ExpectAsSample(Random(at::kFloat, {std::ssize(inputs), 100}, numbers, 3.0f), inputs);
}

// Behind a row's vocabulary lie other rows' own tokens.
TEST(DeviceSamplerTest, ARowSeesItsOwnVocabularyAlone) {
  Input greedy = Greedy(), drawn = With(3.0f, 0, 1.0f, 0.0f);
  greedy.vocab_size = drawn.vocab_size = 37;
  greedy.options.logprobs = 50;  // more than there are
  greedy.options.logit_bias = {{38, 100.0f}};
  const std::vector<Input> inputs = Repeated({greedy, drawn, With(3.0f, 0, 1.0f, 0.0f)}, 5);
  Numbers numbers(5);
  at::Tensor logits = Random(at::kFloat, {std::ssize(inputs), 60}, numbers);
  for (int64_t i = 0; i < logits.numel(); ++i) {
    if (i % 60 >= 37) Put(logits, i, 9.0f);
  }
  ExpectAsSample(logits, inputs);
}

TEST(DeviceSamplerTest, ARowThatIsNotFiniteFailsAloneAndSaysSoAsSampleDoes) {
  Numbers numbers(6);
  at::Tensor logits = Random(at::kFloat, {7, 64}, numbers);
  Put(logits, 1 * 64 + 0, kNan);
  Put(logits, 2 * 64 + 63, kNan);
  Put(logits, 3 * 64 + 5, kInfinity);
  for (int64_t id = 0; id < 64; ++id) Put(logits, 4 * 64 + id, -kInfinity);
  std::vector<Input> inputs(7, Greedy());
  for (size_t i = 0; i < 6; ++i) inputs[i].options.temperature = i % 2 == 0 ? 1.0f : 0.0f;
  for (Input& in : inputs) in.options.logprobs = 2;
  for (int32_t id = 0; id < 64; ++id) inputs[5].banned.push_back(id);
  inputs[0].options.logit_bias = {{3, kInfinity}};
  ExpectAsSample(logits, inputs);
  const SampleResult result = OnDevice(logits, RowsOf(inputs));
  EXPECT_THAT(std::string(result.errors[1].message()), testing::HasSubstr("row 1: the largest logit of the model"));
  EXPECT_THAT(std::string(result.errors[5].message()), testing::HasSubstr("row 5: the largest logit after bias"));
  EXPECT_OK(result.errors[6]);
}

TEST(DeviceSamplerTest, ARowIsTheSameAloneAndAmongOthers) {
  std::vector<Input> inputs = Repeated({With(1.0f, 0, 0.9f, 0.0f), With(1.0f, 30, 1.0f, 0.0f), Greedy()}, 4);
  for (Input& in : inputs) in.options.logprobs = 3;
  Numbers numbers(7);
  const at::Tensor logits = Random(at::kFloat, {std::ssize(inputs), 130}, numbers, 3.0f);
  const std::vector<SampleRow> rows = RowsOf(inputs);
  const SampleResult together = OnDevice(logits, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const TokenLogprob alone = OnDevice(logits, absl::MakeConstSpan(&rows[i], 1)).tokens[0];
    EXPECT_EQ(alone.token_id, together.tokens[i].token_id);
    EXPECT_EQ(alone.logprob, together.tokens[i].logprob);
    for (size_t j = 0; j < alone.top.size(); ++j) EXPECT_EQ(alone.top[j].logprob, together.tokens[i].top[j].logprob);
  }
}

// Every thread adds to one bin at once: first a whole number of its upper halves, then lower halves that carry.
TEST(DeviceSamplerTest, AllOfALargeVocabularyHasOneWeight) {
  const std::vector<Input> inputs =
      Repeated({With(1.0f, 0, 0.9f, 0.0f), With(1.0f, 70'000, 0.6f, 0.0f), With(1.0f, 1000, 1.0f, 0.0f)}, 2);
  constexpr int64_t kVocab = int64_t{1} << 17;
  for (const float below : {0.0f, 1.2e-7f}) {  // beside the largest: a weight of 1, or of 1 - 2^-23
    const auto logit = [below](int64_t i) { return i % kVocab == 77 ? 0.0f : -below; };
    ExpectAsSample(Filled(at::kFloat, {std::ssize(inputs), kVocab}, logit), inputs);
  }
}

TEST(DeviceSamplerTest, MoreLogitsThanItSumsAreRefused) {
  at::Tensor logits = at::empty({1, kMostDrawnLogits + 1}, at::TensorOptions().device(kDevice));
  const std::vector<Input> inputs = {Greedy()};
  EXPECT_INVALID(SampleOnDevice(logits, RowsOf(inputs)).status(), "limit: 524288");
}

// Through the engine: the seed decides, wherever the base is.
TEST(DeviceSamplerTest, RequestsWithASeedGetTheTokensThatTheCpuDraws) {
  const std::string base = "llama3", folder = GoldenDir(base) + "/model";
  const LoadOptions options = {.device = kDevice};
  const std::unique_ptr<CausalLm> on_device = CausalLm::Load(folder, options).value();
  std::vector<std::vector<int32_t>> drawn[2];
  for (const bool device : {false, true}) {
    EngineSetup setup;
    if (device) setup.device = TestDeviceMemory();
    setup.pool_bytes = int64_t{2} << 20;
    SteppedEngine engine(device ? on_device.get() : &GoldenBase(base), folder, setup);
    std::vector<std::shared_ptr<Recording>> recordings;
    for (uint64_t i = 0; i < 5; ++i) {
      Request request;
      request.prompt_ids = {1, 5, static_cast<int32_t>(20 + i), 9};
      request.sampling.max_tokens = 8;
      request.sampling.ignore_eos = true;
      request.sampling.temperature = 1.2f;
      request.sampling.seed = i;
      request.sampling.top_p = i % 2 == 0 ? 0.9f : 1.0f;
      request.sampling.top_k = i == 3 ? 20 : 0;
      request.sampling.repetition_penalty = i == 4 ? 1.3f : 1.0f;
      recordings.push_back(engine.Submit(request));
    }
    engine.RunUntilIdle();
    for (const auto& recording : recordings) {
      std::vector<int32_t>& tokens = drawn[device].emplace_back();
      for (const TokenLogprob& token : recording->sequences()[0].tokens) tokens.push_back(token.token_id);
      EXPECT_EQ(tokens.size(), 8u);
    }
  }
  EXPECT_EQ(drawn[1], drawn[0]);
}

}  // namespace
}  // namespace lorad
