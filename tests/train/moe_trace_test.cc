#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
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

// A trace of MoE-PEFT's, about to be done again on a base of this type.
struct Replay {
  Replay(const std::string& name, DType dtype) : folder(absl::StrCat(TracesDir(), "/", name)) { Begin(dtype); }

  void Begin(DType dtype) {
    std::ifstream file(folder + "/trace.json");
    trace = ordered_json::parse(file);
    ASSERT_EQ(trace["spec"]["schedule"], "linear");
    base = LoadTrainBase(trace["spec"]["base"], dtype);
    const auto json = ReadAdapterConfig(folder + "/adapter", *LocalFiles());
    ASSERT_THAT(json, IsOk());
    const auto moe = ParseMoeConfig(*json);
    ASSERT_THAT(moe, IsOk());
    config = ConfigOf(trace["spec"], *moe, std::ssize(trace["steps"]));
    trainer = FreshTrainer();
    ASSERT_NE(trainer, nullptr);
    auto read = ReadAdapter(folder + "/adapter", base.model->base_shape(), *LocalFiles(), {.base_tables = base.tables});
    ASSERT_THAT(read, IsOk());
    begin = *std::move(read);
    ASSERT_THAT(trainer->CopyFrom(begin), IsOk());
  }

  std::unique_ptr<Trainer> FreshTrainer() const {
    return MakeTrainer(base, config, FileExamples(folder + "/data.jsonl"));
  }

  int64_t steps() const { return std::min(config.total_steps, MostTracedSteps()); }  // to be done

  StepReport NextReport() const {
    while (true) {
      const auto slice = trainer->Advance();
      EXPECT_THAT(slice, IsOk());
      if (!slice.ok()) return {};
      if (slice->has_value()) return **slice;
    }
  }

  const std::string folder;
  ordered_json trace;
  TrainBase base;
  TrainConfig config;
  AdapterImage begin;
  std::unique_ptr<Trainer> trainer;
};

class MoeTraceTest : public testing::TestWithParam<std::string> {};

TEST_P(MoeTraceTest, LossesAndGradientsAreMoePefts) {
  const Replay replay(GetParam(), DType::kF32);
  ASSERT_FALSE(HasFailure());
  for (int64_t step = 0; step < replay.steps(); ++step) {
    const ordered_json& expected = replay.trace["steps"][static_cast<size_t>(step)];
    const StepReport report = replay.NextReport();
    const double loss = expected["loss"], router_loss = expected["aux_loss"], norm = expected["grad_norm"];
    EXPECT_NEAR(report.loss, loss, kLossTolerance * loss) << "step " << report.step;
    EXPECT_NEAR(report.router_loss.value_or(0.0), router_loss, kLossTolerance * router_loss) << "step " << report.step;
    EXPECT_NEAR(report.grad_norm, norm, kNormTolerance * norm) << "step " << report.step;
    EXPECT_NEAR(report.learning_rate, expected["learning_rate"].get<double>(), 1e-12) << "step " << report.step;
  }
  EXPECT_EQ(replay.trainer->done(), replay.steps() == replay.config.total_steps);

  // In MoE-PEFT's format; tests/golden/check_moe_training.py asks it about this folder.
  const std::string result = absl::StrCat(testing::TempDir(), "/moe_trained_", GetParam());
  std::filesystem::create_directories(result);
  ASSERT_THAT(replay.trainer->SaveAdapter(result, "golden", {{"lorad.seed", "0"}}), IsOk());
  const auto saved =
      ReadAdapter(result, replay.base.model->base_shape(), *LocalFiles(), {.base_tables = replay.base.tables});
  ASSERT_THAT(saved, IsOk());
  EXPECT_EQ(saved->kind, replay.begin.kind);
  EXPECT_NE(saved->digest, replay.begin.digest);
  ASSERT_EQ(saved->slots.size(), replay.begin.slots.size());
  for (size_t i = 0; i < saved->slots.size(); ++i) EXPECT_EQ(saved->slots[i].scale, replay.begin.slots[i].scale);
  EXPECT_THAT(replay.FreshTrainer()->CopyFrom(*saved), IsOk());
}

INSTANTIATE_TEST_SUITE_P(Golden, MoeTraceTest, testing::ValuesIn(ListDir(TracesDir())),
                         [](const auto& info) { return info.param; });

// MoE-PEFT's own bf16 is the measure of how far off the fp32 losses a right bf16 may be. Over all traces together:
// which way a row goes where two experts are as good is chance, and a trace has few such rows.
TEST(Bf16MoeTraceTest, LossesAreNoFurtherFromFp32ThanMoePeftsAre) {
  double ours = 0, theirs = 0;
  for (const std::string& name : ListDir(TracesDir())) {
    std::ifstream file(absl::StrCat(TracesDir(), "/", name, "/bf16.json"));
    if (!file.is_open()) continue;  // not MoE-PEFT's
    const auto others = ordered_json::parse(file)["losses"].get<std::vector<double>>();
    const Replay replay(name, DType::kBF16);
    ASSERT_FALSE(HasFailure());
    ASSERT_EQ(others.size(), replay.trace["steps"].size());
    double of_trace = 0;
    for (size_t i = 0; i < static_cast<size_t>(replay.steps()); ++i) {
      const double exact = replay.trace["steps"][i]["loss"];
      of_trace += std::abs(replay.NextReport().loss - exact);
      theirs += std::abs(others[i] - exact);
    }
    EXPECT_GT(of_trace, 0) << name;  // it is bf16
    ours += of_trace;
  }
  EXPECT_GT(theirs, 0);
  EXPECT_LT(ours, 1.2 * theirs);
  RecordProperty("ours_over_theirs", std::to_string(ours / theirs));
}

}  // namespace
}  // namespace lorad
