#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/moe_config.h"
#include "adapters/train/trainer.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

using nlohmann::ordered_json;

// What two correct programs differ by in fp32, twenty steps of Adam added.
constexpr double kLossTolerance = 1e-5;
constexpr double kNormTolerance = 1e-3;

std::string TracesDir() { return absl::StrCat(SourceDir(), "/tests/golden/moe_training"); }

TrainConfig ConfigOf(const ordered_json& spec, const MoeConfig& moe, int64_t steps) {
  const ordered_json& adapter = spec["adapter"];
  const bool is_switch = moe.name == "mixlora-switch", is_mixlora = moe.kind == MoeKind::kMixLora;
  RoutedTraining routed;
  routed.moe = moe;
  if (adapter.value("router_loss", is_mixlora)) routed.aux_loss_coef = adapter["router_aux_loss_coef"];
  routed.z_loss_coef = adapter.value("router_z_loss_coef", 0.0);
  if (is_switch) routed.expert_capacity = adapter["expert_capacity"];
  TrainConfig config;
  config.routed = routed;
  config.optimizer.learning_rate = spec["learning_rate"];
  config.optimizer.weight_decay = spec["weight_decay"];
  config.optimizer.max_grad_norm = spec["max_grad_norm"];
  config.schedule = {ScheduleKind::kLinear, spec["warmup_steps"]};
  config.total_steps = steps;
  config.batch_size = spec["batch_size"];
  config.micro_batch_size = spec["micro_batch_size"];
  config.normalization = LossNormalization::kMicroBatchMean;
  config.shuffle = false;
  return config;
}

class MoeTraceTest : public testing::TestWithParam<std::string> {};

TEST_P(MoeTraceTest, LossesAndGradientsAreMoePeftsForTwentySteps) {
  const std::string folder = absl::StrCat(TracesDir(), "/", GetParam());
  std::ifstream file(folder + "/trace.json");
  const ordered_json trace = ordered_json::parse(file);
  ASSERT_EQ(trace["spec"]["schedule"], "linear");
  const TrainBase base = LoadTrainBase(trace["spec"]["base"]);
  const auto json = ReadAdapterConfig(folder + "/adapter", *LocalFiles());
  ASSERT_THAT(json, IsOk());
  const auto moe = ParseMoeConfig(*json);
  ASSERT_THAT(moe, IsOk());
  const TrainConfig config = ConfigOf(trace["spec"], *moe, std::ssize(trace["steps"]));
  const std::unique_ptr<Trainer> trainer = MakeTrainer(base, config, FileExamples(folder + "/data.jsonl"));
  ASSERT_NE(trainer, nullptr);
  const auto begin = ReadAdapter(folder + "/adapter", base.model->base_shape(), *LocalFiles());
  ASSERT_THAT(begin, IsOk());
  ASSERT_THAT(trainer->CopyFrom(*begin), IsOk());

  for (const ordered_json& expected : trace["steps"]) {
    std::optional<StepReport> report;
    while (!report.has_value()) {
      const auto slice = trainer->Advance();
      ASSERT_THAT(slice, IsOk());
      report = *slice;
    }
    const double loss = expected["loss"], router_loss = expected["aux_loss"], norm = expected["grad_norm"];
    EXPECT_NEAR(report->loss, loss, kLossTolerance * loss) << "step " << report->step;
    EXPECT_NEAR(report->router_loss.value_or(0.0), router_loss, kLossTolerance * router_loss)
        << "step " << report->step;
    EXPECT_NEAR(report->grad_norm, norm, kNormTolerance * norm) << "step " << report->step;
    EXPECT_NEAR(report->learning_rate, expected["learning_rate"].get<double>(), 1e-12) << "step " << report->step;
  }
  EXPECT_TRUE(trainer->done());

  // In MoE-PEFT's format; tests/golden/check_moe_training.py asks it about this folder.
  const std::string result = absl::StrCat(testing::TempDir(), "/moe_trained_", GetParam());
  std::filesystem::create_directories(result);
  ASSERT_THAT(trainer->SaveAdapter(result, "golden", {{"lorad.seed", "0"}}), IsOk());
  const auto saved = ReadAdapter(result, base.model->base_shape(), *LocalFiles());
  ASSERT_THAT(saved, IsOk());
  EXPECT_EQ(saved->kind, begin->kind);
  EXPECT_NE(saved->digest, begin->digest);
  ASSERT_EQ(saved->slots.size(), begin->slots.size());
  for (size_t i = 0; i < saved->slots.size(); ++i) EXPECT_EQ(saved->slots[i].scale, begin->slots[i].scale);
  EXPECT_THAT(MakeTrainer(base, config, FileExamples(folder + "/data.jsonl"))->CopyFrom(*saved), IsOk());
}

INSTANTIATE_TEST_SUITE_P(Golden, MoeTraceTest, testing::ValuesIn(ListDir(TracesDir())),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
