#include "tests/device/device_engine.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "tests/component/golden_base.h"
#include "tests/device/test_device.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;
constexpr int64_t kMostPromptTokens = 40;  // in the emulator's time

}  // namespace

bool IsShort(const GoldenCase& golden) { return static_cast<int64_t>(golden.prompt.size()) <= kMostPromptTokens; }

LoadOptions OnDevice() { return {.device = at::Device(at::kCUDA, 0)}; }

EngineSetup SetupOnDevice() {
  EngineSetup setup;
  setup.device = TestDeviceMemory();
  setup.pool_bytes = int64_t{4} << 20;
  setup.engine.steps_a_turn = EngineConfig().steps_a_turn;
  return setup;
}

EngineSetup WithSmallPool(EngineSetup setup) {
  setup.page_bytes = 1024;
  setup.pool_bytes = int64_t{360} << 10;
  setup.engine.max_batch_tokens = 12;
  setup.engine.max_sequences = 3;
  return setup;
}

std::vector<GoldenCase> CasesOf(const std::string& base, std::set<std::string> wanted) {
  std::vector<GoldenCase> cases;
  for (GoldenCase& golden : AllGoldenCases(base)) {
    if (!golden.composition.empty() || golden.prompt.size() < 4 || !IsShort(golden)) continue;
    if (wanted.erase(golden.adapter) > 0) cases.push_back(std::move(golden));
  }
  EXPECT_TRUE(wanted.empty()) << "no short case of " << *wanted.begin();
  return cases;
}

std::vector<GoldenCase> CasesOf(const std::string& base) {
  if (!TestDeviceIsEmulated()) return AllGoldenCases(base);
  std::set<std::string> adapters;
  std::vector<GoldenCase> compositions;
  for (GoldenCase& golden : AllGoldenCases(base)) {
    if (golden.composition.empty()) {
      adapters.insert(golden.adapter);
    } else if (IsShort(golden)) {
      compositions.push_back(std::move(golden));
    }
  }
  std::vector<GoldenCase> cases = CasesOf(base, std::move(adapters));
  for (GoldenCase& golden : compositions) cases.push_back(std::move(golden));
  return cases;
}

std::set<std::string> NamesIn(const std::vector<GoldenCase>& cases) {
  std::set<std::string> names;
  for (const GoldenCase& golden : cases) {
    for (const auto& [name, scale] : AdaptersOf(golden)) names.insert(name);
  }
  return names;
}

DeviceEngine::DeviceEngine(CausalLm* model, std::string base, const EngineSetup& setup)
    : base_(std::move(base)), engine_(model, GoldenDir(base_) + "/model", setup) {}

void DeviceEngine::LoadAs(const std::string& name, const std::string& folder) {
  const CommandAnswer answer = engine_.Load(name, GoldenAdapterDir(base_, folder));
  engine_.RunUntilIdle();
  ASSERT_TRUE(answer->has_value()) << name;
  ASSERT_THAT(**answer, IsOk()) << name;
}

void DeviceEngine::Unload(const std::string& name) {
  const CommandAnswer answer = engine_.Unload(name);
  engine_.RunUntilIdle();
  ASSERT_TRUE(answer->has_value()) << name;
  ASSERT_THAT(**answer, IsOk()) << name;
}

void DeviceEngine::LoadFor(const std::vector<GoldenCase>& cases) {
  for (const std::string& name : NamesIn(cases)) Load(name);
}

void DeviceEngine::ExpectAnswersWhileLoaded(const std::string& name) {
  Load(name);
  ExpectAnswers(CasesOf(base_, {name}));
  Unload(name);
}

void DeviceEngine::ExpectAnswers(const std::vector<GoldenCase>& cases, int apart) {
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

}  // namespace lorad
