#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "adapters/checkpoint_tables.h"
#include "adapters/kinds/kind.h"
#include "adapters/train/trainer.h"
#include "model/causal_lm.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using nlohmann::ordered_json;

// What two correct programs differ by in fp32 after a step; twenty steps of Adam add to it.
constexpr double kLossTolerance = 1e-5;
constexpr double kNormTolerance = 1e-3;

std::string GoldenDir() { return absl::StrCat(SourceDir(), "/tests/golden"); }

std::vector<std::string> Traces() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(GoldenDir() + "/training")) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

std::vector<Example> ReadExamples(const std::string& path) {
  std::vector<Example> examples;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const ordered_json json = ordered_json::parse(line);
    examples.push_back({json["input_ids"].get<std::vector<int32_t>>(), json["labels"].get<std::vector<int32_t>>()});
  }
  return examples;
}

ScheduleKind ScheduleOf(const std::string& name) {
  return name == "linear" ? ScheduleKind::kLinear : name == "cosine" ? ScheduleKind::kCosine : ScheduleKind::kConstant;
}

TrainConfig ConfigOf(const ordered_json& spec, int64_t steps) {
  TrainConfig config;
  config.adapter.rank = spec["rank"];
  config.adapter.alpha = spec["alpha"];
  config.adapter.use_dora = spec["dora"];
  config.adapter.use_rslora = spec["rslora"];
  for (const auto& [key, rank] : spec["rank_pattern"].items()) config.adapter.rank_pattern.emplace_back(key, rank);
  for (const auto& [key, alpha] : spec["alpha_pattern"].items()) config.adapter.alpha_pattern.emplace_back(key, alpha);
  config.adapter.all_linear = spec["targets"] == "all-linear";
  if (!config.adapter.all_linear) config.adapter.target_names = spec["targets"].get<std::vector<std::string>>();
  config.optimizer.kind = spec["optimizer"] == "sgd" ? OptimizerKind::kSgd : OptimizerKind::kAdamW;
  config.optimizer.learning_rate = spec["learning_rate"];
  config.optimizer.beta1 = spec["betas"][0];
  config.optimizer.beta2 = spec["betas"][1];
  config.optimizer.epsilon = spec["epsilon"];
  config.optimizer.weight_decay = spec["weight_decay"];
  config.optimizer.max_grad_norm = spec["max_grad_norm"];
  config.optimizer.momentum = spec["momentum"];
  config.optimizer.lora_plus_ratio = spec["lora_plus_ratio"];
  config.schedule = {ScheduleOf(spec["schedule"]), spec["warmup_steps"]};
  config.init = spec.value("init", "given") == "pissa"   ? LeafInit::kPissa
                : spec.value("init", "given") == "olora" ? LeafInit::kOlora
                                                         : LeafInit::kDefault;
  const std::string bias = spec.value("bias", "none");
  if (bias != "none") config.adapter.bias = bias == "all" ? PeftBias::kAll : PeftBias::kLoraOnly;
  config.dropout = spec.value("dropout", 0.0);
  config.seed = spec.value("seed", 0);
  config.total_steps = steps;
  config.batch_size = spec["batch_size"];
  config.micro_batch_size = spec["micro_batch_size"];
  config.normalization =
      spec["normalization"] == "token_mean" ? LossNormalization::kTokenMean : LossNormalization::kMicroBatchMean;
  config.shuffle = false;
  return config;
}

class TraceTest : public testing::TestWithParam<std::string> {};

TEST_P(TraceTest, LossesAndGradientsArePeftsForTwentySteps) {
  const std::string folder = absl::StrCat(GoldenDir(), "/training/", GetParam());
  std::ifstream file(folder + "/trace.json");
  const ordered_json trace = ordered_json::parse(file);
  const std::string base_dir = absl::StrCat(GoldenDir(), "/", trace["spec"]["base"].get<std::string>(), "/model");
  auto model = CausalLm::Load(base_dir, {.dtype = DType::kF32});
  ASSERT_THAT(model, IsOk());
  const auto tables = OpenBaseTables(base_dir, (*model)->base_shape());
  ASSERT_THAT(tables, IsOk());

  const std::vector<Example> examples = ReadExamples(folder + "/data.jsonl");
  const ExampleSource source = {static_cast<int64_t>(examples.size()),
                                [&](int64_t i) { return examples[static_cast<size_t>(i)]; }};
  auto trainer = Trainer::Create(ConfigOf(trace["spec"], static_cast<int64_t>(trace["steps"].size())), model->get(),
                                 *tables, source);
  ASSERT_THAT(trainer, IsOk());
  if (std::filesystem::exists(folder + "/adapter")) {  // else it begins from the base's weights
    const auto begin =
        ReadAdapter(folder + "/adapter", (*model)->base_shape(), *LocalFiles(), {.base_tables = *tables});
    ASSERT_THAT(begin, IsOk());
    ASSERT_THAT((*trainer)->CopyFrom(*begin), IsOk());
  }

  for (const ordered_json& expected : trace["steps"]) {
    std::optional<StepReport> report;
    while (!report.has_value()) {
      const auto slice = (*trainer)->Advance();
      ASSERT_THAT(slice, IsOk());
      report = *slice;
    }
    const double loss = expected["loss"], norm = expected["grad_norm"];
    EXPECT_NEAR(report->loss, loss, kLossTolerance * std::abs(loss)) << "step " << report->step;
    EXPECT_NEAR(report->grad_norm, norm, kNormTolerance * norm) << "step " << report->step;
    EXPECT_NEAR(report->learning_rate, expected["learning_rate"].get<double>(), 1e-12) << "step " << report->step;
  }
  EXPECT_TRUE((*trainer)->done());
}

INSTANTIATE_TEST_SUITE_P(Golden, TraceTest, testing::ValuesIn(Traces()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
