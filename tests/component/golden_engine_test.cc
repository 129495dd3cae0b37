// transformers', peft's and MoE-PEFT's answers through the whole engine, on its own thread: every case of a base, of
// all kinds of adapters that there are of it, submitted at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/component/alone.h"
#include "tests/component/golden_base.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/golden_runner.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;
constexpr std::string_view kMoePeft = "moe/";  // before the names of MoE-PEFT's adapters

std::vector<GoldenCase> CasesOf(const std::string& base) {
  std::vector<GoldenCase> cases = ReadGoldenCases(GoldenDir(base) + "/cases.json");
  for (GoldenCase& golden : ReadGoldenCompositions(GoldenDir(base))) cases.push_back(std::move(golden));
  const std::string of_moe_peft = GoldenDir("moe_peft/" + base) + "/cases.json";
  if (!std::filesystem::exists(of_moe_peft)) return cases;
  for (GoldenCase& golden : ReadGoldenCases(of_moe_peft)) {
    golden.adapter.insert(0, kMoePeft);
    cases.push_back(std::move(golden));
  }
  return cases;
}

void LoadAdapters(const std::string& base, const std::vector<GoldenCase>& cases, ThreadedEngine* engine) {
  std::set<std::string> loaded;
  for (const GoldenCase& golden : cases) {
    if (golden.adapter.empty() || !loaded.insert(golden.adapter).second) continue;
    const bool is_moe_peft = golden.adapter.starts_with(kMoePeft);
    const std::string folder = is_moe_peft ? AdapterDir("moe_peft/" + base, golden.adapter.substr(kMoePeft.size()))
                                           : AdapterDir(base, golden.adapter);
    const absl::Status status = engine->Load(golden.adapter, folder);
    ASSERT_TRUE(status.ok()) << golden.adapter << ": " << status;
  }
}

std::vector<double> Values(const std::vector<TokenLogprob>& logprobs, size_t from) {
  std::vector<double> values;
  for (size_t i = from; i < logprobs.size(); ++i) values.push_back(logprobs[i].logprob);
  return values;
}

GoldenAnswer GoldenAnswerOf(const Recording& recording) {
  const Answer answer = AnswerOf(recording, 0);
  return {.tokens = answer.ids(),
          .logprobs = Values(answer.tokens, 0),
          .prompt_logprobs = Values(answer.prompt_logprobs, 1)};  // the first token of a prompt has none
}

Request RequestOf(const GoldenCase& golden) {
  Request request;
  request.adapter = golden.adapter;
  for (const auto& [name, scale] : golden.composition) request.composition.push_back({.name = name, .scale = scale});
  if (!golden.composition.empty()) request.adapter = golden.composition.front().first;
  request.prompt_ids = golden.prompt;
  request.sampling.max_tokens = golden.max_tokens;
  request.sampling.temperature = 0.0f;
  request.sampling.logprobs = 0;
  request.sampling.prompt_logprobs = 0;
  return request;
}

class GoldenEngineTest : public testing::TestWithParam<std::string> {
 protected:
  void ExpectGoldenAnswers(const EngineSetup& setup) {
    const std::vector<GoldenCase> cases = CasesOf(GetParam());
    ThreadedEngine engine(&GoldenBase(GetParam()), GoldenDir(GetParam()) + "/model", setup);
    LoadAdapters(GetParam(), cases, &engine);
    if (HasFatalFailure()) return;
    std::vector<std::shared_ptr<Recording>> recordings;
    for (const GoldenCase& golden : cases) recordings.push_back(engine.Submit(RequestOf(golden)));
    for (size_t i = 0; i < cases.size(); ++i) {
      recordings[i]->WaitUntilFinished();
      EXPECT_EQ(recordings[i]->broken_rule(), "");
      EXPECT_EQ(recordings[i]->sequences()[0].finish->reason, FinishReason::kLength);
      ExpectGolden(cases[i], GoldenAnswerOf(*recordings[i]), kTolerance);
    }
    EXPECT_GT(engine.parts().observer.most_adapters, 2);
  }
};

TEST_P(GoldenEngineTest, AllCasesAtOnceInLargeSteps) { ExpectGoldenAnswers({}); }

TEST_P(GoldenEngineTest, AllCasesAtOnceInSmallStepsAndLittleMemory) {
  EngineSetup setup;
  setup.pool_bytes = int64_t{3} << 20;
  setup.engine.max_batch_tokens = 24;
  setup.engine.max_sequences = 12;
  ExpectGoldenAnswers(setup);
}

INSTANTIATE_TEST_SUITE_P(Bases, GoldenEngineTest, testing::ValuesIn(GoldenBases(GoldenDir(""))),
                         [](const auto& info) { return info.param; });

// Classifications and generations in one batch, of the base and of all its adapters, each as peft answers it.
class GoldenClassifierTest : public testing::TestWithParam<std::string> {};

TEST_P(GoldenClassifierTest, ClassLogitsAreThoseOfPeftInOneBatchWithGenerations) {
  const std::string dir = GoldenDir(GetParam());
  EngineSetup setup;
  setup.engine.max_batch_tokens = 24;  // long prompts go in pieces
  ThreadedEngine engine(&GoldenBase(GetParam()), dir + "/model", setup);
  const nlohmann::json cases = ReadJsonFile(dir + "/classifiers.json");
  std::set<std::string> loaded;
  for (const nlohmann::json& item : cases) {
    const std::string adapter = item["adapter"];
    if (!loaded.insert(adapter).second) continue;
    const absl::Status status = engine.Load("class/" + adapter, dir + "/classifiers/" + adapter);
    ASSERT_TRUE(status.ok()) << adapter << ": " << status;
  }
  std::vector<std::shared_ptr<Recording>> recordings, generations;
  const std::vector<GoldenCase> golden = CasesOf(GetParam());
  LoadAdapters(GetParam(), golden, &engine);
  if (HasFatalFailure()) return;
  for (size_t i = 0; i < std::max(cases.size(), golden.size()); ++i) {
    if (i < golden.size()) generations.push_back(engine.Submit(RequestOf(golden[i])));
    if (i >= cases.size()) continue;
    Request request;
    request.adapter = "class/" + cases[i]["adapter"].get<std::string>();
    request.classify = true;
    request.prompt_ids = cases[i]["prompt"].get<std::vector<int32_t>>();
    request.sampling.max_tokens = 1;
    recordings.push_back(engine.Submit(std::move(request)));
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(cases[i]["name"].get<std::string>());
    recordings[i]->WaitUntilFinished();
    EXPECT_EQ(recordings[i]->broken_rule(), "");
    const Recording::Sequence& answer = recordings[i]->sequences()[0];
    EXPECT_TRUE(answer.finish->status.ok()) << answer.finish->status;
    EXPECT_TRUE(answer.tokens.empty());
    const auto wanted = cases[i]["logits"].get<std::vector<double>>();
    ASSERT_EQ(answer.class_logits.size(), wanted.size());
    for (size_t l = 0; l < wanted.size(); ++l) EXPECT_NEAR(answer.class_logits[l], wanted[l], kTolerance);
  }
  for (size_t i = 0; i < generations.size(); ++i) {
    generations[i]->WaitUntilFinished();
    ExpectGolden(golden[i], GoldenAnswerOf(*generations[i]), kTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Bases, GoldenClassifierTest, testing::Values("llama3", "qwen3", "opt", "opt_post", "phi"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
