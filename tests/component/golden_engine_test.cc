// transformers', peft's and MoE-PEFT's answers through the whole engine, on its own thread: every case of a base, of
// all kinds of adapters that there are of it, submitted at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/component/alone.h"
#include "tests/component/golden_base.h"
#include "tests/component/golden_requests.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/golden_runner.h"
#include "tests/support/test_files.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;

void LoadAdapters(const std::string& base, const std::vector<GoldenCase>& cases, ThreadedEngine* engine) {
  std::set<std::string> loaded;
  for (const GoldenCase& golden : cases) {
    if (golden.adapter.empty() || !loaded.insert(golden.adapter).second) continue;
    const absl::Status status = engine->Load(golden.adapter, GoldenAdapterDir(base, golden.adapter));
    ASSERT_TRUE(status.ok()) << golden.adapter << ": " << status;
  }
}

class GoldenEngineTest : public testing::TestWithParam<std::string> {
 protected:
  void ExpectGoldenAnswers(const EngineSetup& setup) {
    const std::vector<GoldenCase> cases = AllGoldenCases(GetParam());
    ThreadedEngine engine(&GoldenBase(GetParam()), GoldenDir(GetParam()) + "/model", setup);
    LoadAdapters(GetParam(), cases, &engine);
    if (HasFatalFailure()) return;
    std::vector<std::shared_ptr<Recording>> recordings;
    for (const GoldenCase& golden : cases) recordings.push_back(engine.Submit(GoldenRequestOf(golden)));
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

// A pool that holds a few at a time, and a host that keeps all: each adapter is read for the pool once, and comes back
// as what it was.
TEST(GoldenWarmTest, AdaptersThatComeBackFromTheHostAnswerAsBefore) {
  const std::string base = "llama3";
  const std::vector<GoldenCase> cases = AllGoldenCases(base);
  EngineSetup setup;
  setup.pool_bytes = int64_t{1} << 20;
  setup.engine.max_batch_tokens = 24;
  setup.engine.max_sequences = 4;
  setup.engine.host_adapter_bytes = int64_t{64} << 20;
  ThreadedEngine engine(&GoldenBase(base), GoldenDir(base) + "/model", setup);
  LoadAdapters(base, cases, &engine);
  ASSERT_FALSE(HasFatalFailure());
  std::set<std::string> names;
  for (int round = 0; round < 2; ++round) {
    for (const GoldenCase& golden : cases) {
      if (!golden.composition.empty()) continue;
      if (!golden.adapter.empty()) names.insert(golden.adapter);
      const std::shared_ptr<Recording> recording = engine.Submit(GoldenRequestOf(golden));
      recording->WaitUntilFinished();
      ExpectGolden(golden, GoldenAnswerOf(*recording), kTolerance);
    }
  }
  const CountingObserver& observer = engine.parts().observer;
  EXPECT_GE(observer.warm_loads, static_cast<int64_t>(names.size()));
  EXPECT_EQ(observer.loads - observer.warm_loads, static_cast<int64_t>(names.size()));
}

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
  const std::vector<GoldenCase> golden = AllGoldenCases(GetParam());
  LoadAdapters(GetParam(), golden, &engine);
  if (HasFatalFailure()) return;
  for (size_t i = 0; i < std::max(cases.size(), golden.size()); ++i) {
    if (i < golden.size()) generations.push_back(engine.Submit(GoldenRequestOf(golden[i])));
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
