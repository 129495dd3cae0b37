// Captured steps through the engine: whatever changes between two replays, requests get what they get without.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/causal_lm.h"
#include "tests/component/golden_base.h"
#include "tests/component/golden_requests.h"
#include "tests/cuda_emulator/torch_device.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;
constexpr size_t kMostPromptTokens = 40;  // the emulator's time

LoadOptions OnDevice() { return {.device = at::Device(at::kCUDA, 0)}; }

EngineSetup SetupWithGraphs() {
  EngineSetup setup;
  setup.device = emulator::EmulatedLibrary().memory;
  setup.pool_bytes = int64_t{4} << 20;
  setup.graphs.emplace();
  return setup;
}

// Some cases of a base with short prompts: one of each adapter, `most` in all; and the base's own.
std::vector<GoldenCase> ShortCases(const std::string& base, size_t most) {
  std::set<std::string> seen;
  std::vector<GoldenCase> cases;
  for (GoldenCase& golden : AllGoldenCases(base)) {
    if (cases.size() == most) break;
    if (golden.prompt.size() > kMostPromptTokens || golden.prompt.size() < 4) continue;
    if (golden.composition.empty() && !seen.insert(golden.adapter).second) continue;
    cases.push_back(std::move(golden));
  }
  return cases;
}

std::vector<GoldenCase> CasesOf(const std::string& base, std::set<std::string> wanted) {
  std::vector<GoldenCase> cases;
  for (GoldenCase& golden : AllGoldenCases(base)) {
    const size_t tokens = golden.prompt.size();
    if (!golden.composition.empty() || tokens < 4 || tokens > kMostPromptTokens) continue;
    if (wanted.erase(golden.adapter) > 0) cases.push_back(std::move(golden));
  }
  EXPECT_TRUE(wanted.empty()) << "no short case of " << *wanted.begin();
  return cases;
}

class GraphEngine final {
 public:
  GraphEngine(CausalLm* model, std::string base, const EngineSetup& setup)
      : base_(std::move(base)), engine_(model, GoldenDir(base_) + "/model", setup) {}

  void Load(const std::string& name) { LoadAs(name, name); }
  void LoadAs(const std::string& name, const std::string& folder) {
    const CommandAnswer answer = engine_.Load(name, GoldenAdapterDir(base_, folder));
    engine_.RunUntilIdle();
    ASSERT_TRUE(answer->has_value()) << name;
    ASSERT_THAT(**answer, IsOk()) << name;
  }
  void Unload(const std::string& name) {
    const CommandAnswer answer = engine_.Unload(name);
    engine_.RunUntilIdle();
    ASSERT_THAT(**answer, IsOk()) << name;
  }
  void LoadFor(const std::vector<GoldenCase>& cases) {
    std::set<std::string> names;
    for (const GoldenCase& golden : cases) {
      for (const auto& [name, scale] : AdaptersOf(golden)) names.insert(name);
    }
    for (const std::string& name : names) Load(name);
  }
  // `apart`: turns between two submissions.
  void ExpectAnswers(const std::vector<GoldenCase>& cases, int apart = 0) {
    std::vector<std::shared_ptr<Recording>> recordings;
    for (const GoldenCase& golden : cases) {
      recordings.push_back(engine_.Submit(GoldenRequestOf(golden)));
      for (int turn = 0; turn < apart; ++turn) engine_.Turn();
    }
    engine_.RunUntilIdle();
    for (size_t i = 0; i < cases.size(); ++i) {
      EXPECT_EQ(recordings[i]->broken_rule(), "");
      const std::optional<Finish>& finish = recordings[i]->sequences()[0].finish;
      ASSERT_TRUE(finish.has_value()) << cases[i].name;
      EXPECT_EQ(finish->reason, FinishReason::kLength) << cases[i].name << ": " << finish->abort_detail;
      ExpectGolden(cases[i], GoldenAnswerOf(*recordings[i]), kTolerance);
    }
  }
  void ExpectAnswersWhileLoaded(const std::string& name) {
    Load(name);
    ExpectAnswers(CasesOf(base_, {name}));
    Unload(name);
  }
  std::map<std::string, int64_t>& steps() { return engine_.parts().observer.device_steps; }
  CountingObserver& observer() { return engine_.parts().observer; }
  std::string Steps() {
    return absl::StrJoin(steps(), ", ", [](std::string* out, const auto& entry) {
      absl::StrAppend(out, entry.first, " ", entry.second);
    });
  }

 private:
  const std::string base_;
  SteppedEngine engine_;
};

class CapturedBasesTest : public testing::TestWithParam<std::string> {};

// The second time in another order: other rows have the adapters, at other places of the pool's.
TEST_P(CapturedBasesTest, ReplayedStepsAnswerAsPeft) {
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(GetParam()) + "/model", OnDevice()).value();
  GraphEngine engine(model.get(), GetParam(), SetupWithGraphs());
  const bool routed = !model->config().routed.layers.empty();
  std::vector<GoldenCase> cases = ShortCases(GetParam(), routed ? 14 : 6);  // adapters of its experts, too
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  std::reverse(cases.begin(), cases.end());
  engine.ExpectAnswers(cases, /*apart=*/1);
  RecordProperty("steps", engine.Steps());
  EXPECT_GT(engine.steps()["prefill"], 0);
  EXPECT_GT(engine.observer().steps_behind, 0);
  EXPECT_EQ(engine.steps()["capture_failed"], 0) << engine.Steps();
  EXPECT_EQ(engine.steps()["routed_base"], 0) << engine.Steps();
  EXPECT_GT(engine.steps()["replayed"], engine.steps()["captured"]) << engine.Steps();
}

INSTANTIATE_TEST_SUITE_P(Bases, CapturedBasesTest, testing::ValuesIn(GoldenBases(GoldenDir(""))),
                         [](const auto& info) { return info.param; });

// The same of W' and an adapter beside the base: experts' panels by a table of addresses.
TEST(CapturedQuantizedTest, ReplayedStepsOfARoutedBaseAnswerAsWithRoundedWeights) {
  const std::string base = "qwen2_moe";
  for (const Quantization quantization : kQuantizedForms) {
    SCOPED_TRACE(std::string(Name(quantization)));
    LoadOptions options = OnDevice();
    options.quantization = quantization;
    const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", options).value();
    std::vector<GoldenCase> cases =
        ReadGoldenCases(GoldenDir(base) + absl::StrCat("/cases_", std::string(Name(quantization)), ".json"));
    std::erase_if(cases, [](const GoldenCase& golden) { return golden.prompt.size() > kMostPromptTokens; });
    ASSERT_GT(cases.size(), 2u);
    GraphEngine engine(model.get(), base, SetupWithGraphs());
    engine.LoadFor(cases);
    engine.ExpectAnswers(cases);
    EXPECT_GT(engine.steps()["replayed"], 0) << engine.Steps();
    EXPECT_EQ(engine.steps()["routed_base"], 0) << engine.Steps();
  }
}

// Every kind that launches of its own, alone and among others, then what cannot be captured.
TEST(CapturedAdaptersTest, EveryKindOfAdapterIsReplayedOrRunsEagerly) {
  const std::string base = "llama2";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  GraphEngine engine(model.get(), base, SetupWithGraphs());
  std::vector<GoldenCase> cases = CasesOf(base, {"moe/loramoe"});
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  EXPECT_GT(engine.steps()["replayed"], 0) << engine.Steps();
  const int64_t replayed = engine.steps()["replayed"];
  cases = CasesOf(base, {"moe/mixlora_dynamic"});
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  EXPECT_GT(engine.steps()["routed_adapter"], 0) << engine.Steps();
  EXPECT_EQ(engine.steps()["replayed"], replayed) << engine.Steps();
}

// The routers' choices are the device's; one adapter after the other, then several beside rows of the base.
TEST(CapturedAdaptersTest, RowsThatARouterDealsByTopKAreReplayed) {
  const std::string base = "llama2";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  GraphEngine engine(model.get(), base, SetupWithGraphs());
  for (const char* name : {"mixlora", "mixlora_of_all_experts", "mixlora_of_one_expert", "mixlora_expert_lora",
                           "mixlora_activation", "mixlora_down_alone", "mixlora_without_ffn", "mixlora_switch"}) {
    SCOPED_TRACE(name);
    const int64_t replayed = engine.steps()["replayed"];
    const std::vector<GoldenCase> cases = CasesOf(base, {absl::StrCat("moe/", name)});
    engine.LoadFor(cases);
    engine.ExpectAnswers(cases);
    EXPECT_GT(engine.steps()["replayed"], replayed) << engine.Steps();
  }
  std::vector<GoldenCase> cases =
      CasesOf(base, {"", "moe/mixlora", "moe/mixlora_of_all_experts", "moe/mixlora_switch", "moe/loramoe", "moe/lora"});
  engine.LoadFor(CasesOf(base, {"moe/loramoe", "moe/lora"}));
  for (int round = 0; round < 2; ++round) {
    const int64_t replayed = engine.steps()["replayed"];
    engine.ExpectAnswers(cases);
    EXPECT_GT(engine.steps()["replayed"], replayed) << engine.Steps();
    std::reverse(cases.begin(), cases.end());
  }
  EXPECT_EQ(engine.steps()["routed_adapter"], 0) << engine.Steps();
}

// One request at a time meets the same graph with another adapter each time, whose slot was somebody else's: the two
// with every linear layer differ in nothing that a launch is prepared for, the third has other sites and ranks.
TEST(CapturedAdaptersTest, AdaptersChangeUnderAGraph) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  GraphEngine engine(model.get(), base, SetupWithGraphs());
  engine.ExpectAnswersWhileLoaded("all_linear");
  EXPECT_EQ(engine.steps()["captured"], 1) << engine.Steps();
  engine.ExpectAnswersWhileLoaded("dora");
  EXPECT_EQ(engine.steps()["captured"], 1) << engine.Steps();
  engine.ExpectAnswersWhileLoaded("rank_80");
  EXPECT_EQ(engine.steps()["captured"], 2) << engine.Steps();
  for (const char* name : {"dora", "rank_80", "all_linear"}) engine.ExpectAnswersWhileLoaded(name);
  EXPECT_EQ(engine.steps()["captured"], 2) << engine.Steps();
}

// The same where adapters change experts: the pairs' tables are made by the graph.
TEST(CapturedAdaptersTest, AdaptersOfExpertsChangeUnderAGraph) {
  const std::string base = "mixtral";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  GraphEngine engine(model.get(), base, SetupWithGraphs());
  engine.ExpectAnswersWhileLoaded("experts");
  EXPECT_EQ(engine.steps()["captured"], 1) << engine.Steps();
  engine.ExpectAnswersWhileLoaded("experts_bf16");  // as many ranks of the same sites
  EXPECT_EQ(engine.steps()["captured"], 1) << engine.Steps();
  engine.ExpectAnswersWhileLoaded("q_v");
  EXPECT_EQ(engine.steps()["captured"], 2) << engine.Steps();
  for (const char* name : {"experts_bf16", "q_v", "experts"}) engine.ExpectAnswersWhileLoaded(name);
  EXPECT_EQ(engine.steps()["captured"], 2) << engine.Steps();
}

// With more slots the table on the device lies elsewhere: graphs that read the old one must go.
TEST(CapturedAdaptersTest, ALargerSlotTableDropsTheGraphs) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  GraphEngine engine(model.get(), base, SetupWithGraphs());
  const std::vector<GoldenCase> cases = CasesOf(base, {"q_v"});
  engine.Load("q_v");
  engine.ExpectAnswers(cases);
  engine.ExpectAnswers(cases);
  const int64_t captured = engine.steps()["captured"];
  constexpr int kFirstSlots = 16;
  for (int i = 0; i <= kFirstSlots; ++i) engine.LoadAs(absl::StrCat("copy-", i), "q_v");
  std::vector<GoldenCase> renamed = cases;
  renamed[0].adapter = absl::StrCat("copy-", kFirstSlots);
  engine.ExpectAnswers(renamed);
  engine.ExpectAnswers(cases);
  EXPECT_EQ(engine.steps()["captured"], 2 * captured) << engine.Steps();
}

// A pool with room for a few adapters and steps of few tokens: adapters are evicted and read again, pages move,
// sequences give their blocks back, between replays.
TEST(CapturedAdaptersTest, EvictionReloadAndCompactionKeepTheAnswers) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  std::vector<GoldenCase> cases =
      CasesOf(base, {"", "all_linear", "rank_80", "dora", "saved_embed_and_head", "q_v", "rank_1"});
  EngineSetup setup = SetupWithGraphs();
  setup.page_bytes = 1024;
  setup.pool_bytes = int64_t{360} << 10;
  setup.engine.max_batch_tokens = 12;
  setup.engine.max_sequences = 3;
  GraphEngine engine(model.get(), base, setup);
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  std::reverse(cases.begin(), cases.end());
  engine.ExpectAnswers(cases);
  EXPECT_GT(engine.observer().evictions, 0);
  EXPECT_GT(engine.steps()["replayed"], 0) << engine.Steps();
}

// Few graphs and little memory for them: they go and come again, answers stay.
TEST(CapturedAdaptersTest, TheOldestGraphGoesAndALargeOneIsRefused) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  const std::vector<GoldenCase> cases = CasesOf(base, {"", "q_v", "all_linear"});
  EngineSetup setup = SetupWithGraphs();
  setup.graphs->most_graphs = 1;
  {
    GraphEngine engine(model.get(), base, setup);
    engine.LoadFor(cases);
    for (int round = 0; round < 2; ++round) {
      for (const GoldenCase& golden : cases) engine.ExpectAnswers({golden});
    }
    EXPECT_EQ(engine.observer().last_device_step.graphs, 1);
    EXPECT_GT(engine.observer().last_device_step.graph_bytes, 0);
    EXPECT_GE(engine.steps()["captured"], 6) << engine.Steps();
    EXPECT_GT(engine.steps()["replayed"], 0) << engine.Steps();
  }
  setup.graphs->most_bytes = 1024;
  GraphEngine engine(model.get(), base, setup);
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  EXPECT_GT(engine.steps()["memory"], 0) << engine.Steps();
  EXPECT_GT(engine.steps()["refused"], 0) << engine.Steps();
  EXPECT_EQ(engine.steps()["replayed"], 0) << engine.Steps();
  EXPECT_EQ(engine.observer().last_device_step.graphs, 0);
}

}  // namespace
}  // namespace lorad
