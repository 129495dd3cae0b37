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
#include "tests/device/device_engine.h"
#include "tests/device/test_device.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

EngineSetup SetupWithGraphs() {
  EngineSetup setup = SetupOnDevice();
  setup.graphs.emplace();
  return setup;
}

// All cases of a base; of an emulated device, for its time, `most` short ones: of each adapter one, and the base's own.
std::vector<GoldenCase> SomeCases(const std::string& base, size_t most) {
  if (!TestDeviceIsEmulated()) return AllGoldenCases(base);
  std::set<std::string> seen;
  std::vector<GoldenCase> cases;
  for (GoldenCase& golden : AllGoldenCases(base)) {
    if (cases.size() == most) break;
    if (!IsShort(golden) || golden.prompt.size() < 4) continue;
    if (golden.composition.empty() && !seen.insert(golden.adapter).second) continue;
    cases.push_back(std::move(golden));
  }
  return cases;
}

std::map<std::string, int64_t>& StepsOf(DeviceEngine& engine) { return engine.observer().device_steps; }
std::string Told(DeviceEngine& engine) {
  return absl::StrJoin(StepsOf(engine), ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.first, " ", entry.second);
  });
}

class CapturedBasesTest : public testing::TestWithParam<std::string> {};

// The second time in another order: other rows have the adapters, at other places of the pool's.
TEST_P(CapturedBasesTest, ReplayedStepsAnswerAsPeft) {
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(GetParam()) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), GetParam(), SetupWithGraphs());
  const bool routed = !model->config().routed.layers.empty();
  std::vector<GoldenCase> cases = SomeCases(GetParam(), routed ? 14 : 6);  // adapters of its experts, too
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  std::reverse(cases.begin(), cases.end());
  engine.ExpectAnswers(cases, /*apart=*/1);
  RecordProperty("steps", Told(engine));
  EXPECT_GT(StepsOf(engine)["prefill"], 0);
  EXPECT_GT(engine.observer().steps_behind, 0);
  EXPECT_EQ(StepsOf(engine)["capture_failed"], 0) << Told(engine);
  EXPECT_EQ(StepsOf(engine)["routed_base"], 0) << Told(engine);
  EXPECT_GT(StepsOf(engine)["replayed"], StepsOf(engine)["captured"]) << Told(engine);
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
    std::erase_if(cases, [](const GoldenCase& golden) { return TestDeviceIsEmulated() && !IsShort(golden); });
    ASSERT_GT(cases.size(), 2u);
    DeviceEngine engine(model.get(), base, SetupWithGraphs());
    engine.LoadFor(cases);
    engine.ExpectAnswers(cases);
    EXPECT_GT(StepsOf(engine)["replayed"], 0) << Told(engine);
    EXPECT_EQ(StepsOf(engine)["routed_base"], 0) << Told(engine);
  }
}

// Every kind that launches of its own, alone and among others, then what cannot be captured.
TEST(CapturedAdaptersTest, EveryKindOfAdapterIsReplayedOrRunsEagerly) {
  const std::string base = "llama2";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), base, SetupWithGraphs());
  std::vector<GoldenCase> cases = CasesOf(base, {"moe/loramoe"});
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  EXPECT_GT(StepsOf(engine)["replayed"], 0) << Told(engine);
  const int64_t replayed = StepsOf(engine)["replayed"];
  cases = CasesOf(base, {"moe/mixlora_dynamic"});
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  EXPECT_GT(StepsOf(engine)["routed_adapter"], 0) << Told(engine);
  EXPECT_EQ(StepsOf(engine)["replayed"], replayed) << Told(engine);
}

// The routers' choices are the device's; one adapter after the other, then several beside rows of the base.
TEST(CapturedAdaptersTest, RowsThatARouterDealsByTopKAreReplayed) {
  const std::string base = "llama2";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), base, SetupWithGraphs());
  for (const char* name : {"mixlora", "mixlora_of_all_experts", "mixlora_of_one_expert", "mixlora_expert_lora",
                           "mixlora_activation", "mixlora_down_alone", "mixlora_without_ffn", "mixlora_switch"}) {
    SCOPED_TRACE(name);
    const int64_t replayed = StepsOf(engine)["replayed"];
    const std::vector<GoldenCase> cases = CasesOf(base, {absl::StrCat("moe/", name)});
    engine.LoadFor(cases);
    engine.ExpectAnswers(cases);
    EXPECT_GT(StepsOf(engine)["replayed"], replayed) << Told(engine);
  }
  std::vector<GoldenCase> cases =
      CasesOf(base, {"", "moe/mixlora", "moe/mixlora_of_all_experts", "moe/mixlora_switch", "moe/loramoe", "moe/lora"});
  engine.LoadFor(CasesOf(base, {"moe/loramoe", "moe/lora"}));
  for (int round = 0; round < 2; ++round) {
    const int64_t replayed = StepsOf(engine)["replayed"];
    engine.ExpectAnswers(cases);
    EXPECT_GT(StepsOf(engine)["replayed"], replayed) << Told(engine);
    std::reverse(cases.begin(), cases.end());
  }
  EXPECT_EQ(StepsOf(engine)["routed_adapter"], 0) << Told(engine);
}

// One request at a time meets the same graph with another adapter each time, whose slot was somebody else's: the two
// with every linear layer differ in nothing that a launch is prepared for, the third has more ranks than their class.
TEST(CapturedAdaptersTest, AdaptersChangeUnderAGraph) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), base, SetupWithGraphs());
  engine.ExpectAnswersWhileLoaded("all_linear");
  EXPECT_EQ(StepsOf(engine)["captured"], 1) << Told(engine);
  engine.ExpectAnswersWhileLoaded("dora");
  EXPECT_EQ(StepsOf(engine)["captured"], 1) << Told(engine);
  engine.ExpectAnswersWhileLoaded("rank_80");
  EXPECT_EQ(StepsOf(engine)["captured"], 2) << Told(engine);
  for (const char* name : {"dora", "rank_80", "all_linear"}) engine.ExpectAnswersWhileLoaded(name);
  EXPECT_EQ(StepsOf(engine)["captured"], 2) << Told(engine);
}

// The same where adapters change experts: the pairs' tables are made by the graph.
TEST(CapturedAdaptersTest, AdaptersOfExpertsChangeUnderAGraph) {
  const std::string base = "mixtral";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), base, SetupWithGraphs());
  engine.ExpectAnswersWhileLoaded("experts");
  EXPECT_EQ(StepsOf(engine)["captured"], 1) << Told(engine);
  engine.ExpectAnswersWhileLoaded("experts_bf16");  // as many ranks of the same sites
  EXPECT_EQ(StepsOf(engine)["captured"], 1) << Told(engine);
  engine.ExpectAnswersWhileLoaded("q_v");
  EXPECT_EQ(StepsOf(engine)["captured"], 2) << Told(engine);
  for (const char* name : {"experts_bf16", "q_v", "experts"}) engine.ExpectAnswersWhileLoaded(name);
  EXPECT_EQ(StepsOf(engine)["captured"], 2) << Told(engine);
}

// One after the other, then in pairs: an adapter that needs more than those before it raises its class once, and from
// then on the class has a graph for each number of rows, whoever is in it.
TEST(CapturedAdaptersTest, MixedTrafficHasAGraphForEachClass) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), base, SetupWithGraphs());
  struct Raise {
    const char* adapter;
    int64_t captured;  // by then
  };
  // Sites, sites, sites, ranks, nothing; the base; rows of the head; many ranks.
  const std::vector<Raise> raises = {{"q_v", 1}, {"only_down_proj", 2}, {"all_linear", 3}, {"rslora", 4}, {"dora", 4},
                                     {"", 5},    {"saved_head", 6},     {"rank_80", 7}};
  for (const auto& [adapter, captured] : raises) {
    SCOPED_TRACE(adapter);
    const std::vector<GoldenCase> cases = CasesOf(base, {adapter});
    engine.LoadFor(cases);
    engine.ExpectAnswers(cases);
    EXPECT_EQ(StepsOf(engine)["captured"], captured) << Told(engine);
  }
  for (const char* adapter :
       {"rank_80", "q_v", "", "saved_head", "only_down_proj", "", "rslora", "dora", "all_linear"}) {
    engine.ExpectAnswers(CasesOf(base, {adapter}));
    EXPECT_EQ(StepsOf(engine)["captured"], 7) << adapter << ": " << Told(engine);
  }
  for (const std::set<std::string>& pair : std::vector<std::set<std::string>>{
           {"q_v", "only_down_proj"}, {"", "q_v"}, {"only_down_proj", ""}, {"all_linear", "rslora"}}) {
    engine.ExpectAnswers(CasesOf(base, pair));
    EXPECT_EQ(StepsOf(engine)["captured"], 8) << Told(engine);
  }
}

// Whoever needs more launches than the one behind them leaves them none: who has its sites and ranks already, but not
// its routers, rows of tables or number of ranks, gets a graph of its own.
TEST(CapturedAdaptersTest, AClassDoesNotRaiseAnother) {
  struct Case {
    const char *base, *more, *less;
  };
  for (const auto& [base, more, less] :
       {Case{"llama2", "moe/loramoe", "moe/lora"}, Case{"llama2", "moe/mixlora", "moe/lora"},
        Case{"llama3", "saved_head", "only_v_proj"}, Case{"llama3", "saved_embed_few_rows", "only_down_proj"},
        Case{"llama3", "rank_80", "only_q_proj"}, Case{"llama3", "q_v", ""}}) {
    SCOPED_TRACE(absl::StrCat(more, ", then ", less));
    const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
    DeviceEngine engine(model.get(), base, SetupWithGraphs());
    const std::vector<GoldenCase> first = CasesOf(base, {more}), second = CasesOf(base, {less});
    engine.LoadFor(first);
    engine.LoadFor(second);
    for (int round = 0; round < 2; ++round) {
      engine.ExpectAnswers(first);
      engine.ExpectAnswers(second);
      EXPECT_EQ(StepsOf(engine)["captured"], 2) << Told(engine);
    }
  }
}

// The table on the device has room from the start: adapters that come while others are served drop no graph.
TEST(CapturedAdaptersTest, MoreAdaptersThanSlotsAtFirstKeepTheGraphs) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  DeviceEngine engine(model.get(), base, SetupWithGraphs());
  const std::vector<GoldenCase> cases = CasesOf(base, {"q_v"});
  engine.Load("q_v");
  engine.ExpectAnswers(cases);
  engine.ExpectAnswers(cases);
  const int64_t captured = StepsOf(engine)["captured"];
  constexpr int kFirstSlots = 16;
  for (int i = 0; i <= kFirstSlots; ++i) engine.LoadAs(absl::StrCat("copy-", i), "q_v");
  std::vector<GoldenCase> renamed = cases;
  renamed[0].adapter = absl::StrCat("copy-", kFirstSlots);
  engine.ExpectAnswers(renamed);
  engine.ExpectAnswers(cases);
  EXPECT_EQ(StepsOf(engine)["captured"], captured) << Told(engine);
}

// A pool with room for a few adapters and steps of few tokens: adapters are evicted and read again, pages move,
// sequences give their blocks back, between replays.
TEST(CapturedAdaptersTest, EvictionReloadAndCompactionKeepTheAnswers) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  std::vector<GoldenCase> cases =
      CasesOf(base, {"", "all_linear", "rank_80", "dora", "saved_embed_and_head", "q_v", "rank_1"});
  DeviceEngine engine(model.get(), base, WithSmallPool(SetupWithGraphs()));
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  std::reverse(cases.begin(), cases.end());
  engine.ExpectAnswers(cases);
  EXPECT_GT(engine.observer().evictions, 0);
  EXPECT_GT(StepsOf(engine)["replayed"], 0) << Told(engine);
}

// Few graphs and little memory for them: they go and come again, answers stay.
TEST(CapturedAdaptersTest, TheOldestGraphGoesAndALargeOneIsRefused) {
  const std::string base = "llama3";
  const std::unique_ptr<CausalLm> model = CausalLm::Load(GoldenDir(base) + "/model", OnDevice()).value();
  const std::vector<GoldenCase> cases = CasesOf(base, {"", "q_v", "rank_80"});  // a class each
  EngineSetup setup = SetupWithGraphs();
  setup.graphs->most_graphs = 1;
  {
    DeviceEngine engine(model.get(), base, setup);
    engine.LoadFor(cases);
    for (int round = 0; round < 2; ++round) {
      for (const GoldenCase& golden : cases) engine.ExpectAnswers({golden});
    }
    EXPECT_EQ(engine.observer().last_device_step.graphs, 1);
    EXPECT_GT(engine.observer().last_device_step.graph_bytes, 0);
    EXPECT_GE(StepsOf(engine)["captured"], 6) << Told(engine);
    EXPECT_GT(StepsOf(engine)["replayed"], 0) << Told(engine);
  }
  setup.graphs->most_bytes = 1024;
  DeviceEngine engine(model.get(), base, setup);
  engine.LoadFor(cases);
  engine.ExpectAnswers(cases);
  EXPECT_GT(StepsOf(engine)["memory"], 0) << Told(engine);
  EXPECT_GT(StepsOf(engine)["refused"], 0) << Told(engine);
  EXPECT_EQ(StepsOf(engine)["replayed"], 0) << Told(engine);
  EXPECT_EQ(engine.observer().last_device_step.graphs, 0);
}

}  // namespace
}  // namespace lorad
