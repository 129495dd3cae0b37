// A quantised base on a device answers as transformers and peft do with W' in the place of its matrices.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "model/causal_lm.h"
#include "tests/component/golden_base.h"
#include "tests/component/golden_requests.h"
#include "tests/device/test_device.h"
#include "tests/support/engine_fixture.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

constexpr double kTolerance = 5e-4;
constexpr size_t kMostPromptTokens = 40;  // in the emulator's time

class QuantizedDeviceTest : public testing::TestWithParam<std::tuple<std::string, Quantization>> {};

TEST_P(QuantizedDeviceTest, TheBaseAndItsAdaptersInOneBatchAnswerAsWithRoundedWeights) {
  const auto& [base, quantization] = GetParam();
  const std::string folder = GoldenDir(base);
  const LoadOptions options = {.device = at::Device(at::kCUDA, 0), .quantization = quantization};
  const std::unique_ptr<CausalLm> model = CausalLm::Load(folder + "/model", options).value();
  const std::unique_ptr<CausalLm> on_host = CausalLm::Load(folder + "/model", {.quantization = quantization}).value();
  EXPECT_EQ(model->weight_bytes(), on_host->weight_bytes());
  EngineSetup setup;
  setup.device = TestDeviceMemory();
  setup.pool_bytes = int64_t{4} << 20;
  setup.engine.steps_a_turn = EngineConfig().steps_a_turn;
  setup.engine.max_batch_tokens = 48;  // steps of few rows, and of many
  SteppedEngine engine(model.get(), folder + "/model", setup);

  std::vector<GoldenCase> cases = ReadGoldenCases(folder + "/cases_" + std::string(Name(quantization)) + ".json");
  std::erase_if(cases, [](const GoldenCase& golden) {
    return TestDeviceIsEmulated() && golden.prompt.size() > kMostPromptTokens;
  });
  ASSERT_GT(cases.size(), 2u);
  std::set<std::string> adapters;
  for (const GoldenCase& golden : cases) {
    if (!golden.adapter.empty()) adapters.insert(golden.adapter);
  }
  EXPECT_FALSE(adapters.empty());
  for (const std::string& name : adapters) {
    const CommandAnswer answer = engine.Load(name, GoldenAdapterDir(base, name));
    engine.RunUntilIdle();
    ASSERT_TRUE(answer->has_value()) << name;
    ASSERT_THAT(**answer, IsOk()) << name;
  }
  std::vector<std::shared_ptr<Recording>> recordings;
  for (const GoldenCase& golden : cases) recordings.push_back(engine.Submit(GoldenRequestOf(golden)));
  engine.RunUntilIdle();
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::optional<Finish>& finish = recordings[i]->sequences()[0].finish;
    ASSERT_TRUE(finish.has_value()) << cases[i].name;
    EXPECT_EQ(finish->reason, FinishReason::kLength) << cases[i].name << ": " << finish->abort_detail;
    ExpectGolden(cases[i], GoldenAnswerOf(*recordings[i]), kTolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Bases, QuantizedDeviceTest,
                         testing::Combine(testing::Values("llama3", "phi3", "qwen2_moe"),
                                          testing::ValuesIn(kQuantizedForms)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::string(Name(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace lorad
