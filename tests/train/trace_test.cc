#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "adapters/apply.h"
#include "adapters/kinds/kind.h"
#include "adapters/pool.h"
#include "adapters/train/trainer.h"
#include "model/causal_lm.h"
#include "tests/support/golden_runner.h"
#include "tests/support/source_dir.h"
#include "tests/support/status_matchers.h"
#include "tests/support/test_files.h"
#include "tests/train/train_fixture.h"

namespace lorad {
namespace {

using nlohmann::ordered_json;

// What two correct programs differ by in fp32 after a step; twenty steps of Adam add to it.
constexpr double kLossTolerance = 1e-5;
constexpr double kNormTolerance = 1e-3;

std::string GoldenDir() { return absl::StrCat(SourceDir(), "/tests/golden"); }

ScheduleKind ScheduleOf(const std::string& name) {
  return name == "linear" ? ScheduleKind::kLinear : name == "cosine" ? ScheduleKind::kCosine : ScheduleKind::kConstant;
}

// A list of the embedding's, or lists by module.
std::vector<std::pair<std::string, std::vector<int32_t>>> TokensOf(const ordered_json& tokens) {
  std::vector<std::pair<std::string, std::vector<int32_t>>> of_modules;
  if (tokens.empty()) return of_modules;
  if (tokens.is_array()) return {{"", tokens.get<std::vector<int32_t>>()}};
  for (const auto& [module, list] : tokens.items()) of_modules.emplace_back(module, list.get<std::vector<int32_t>>());
  return of_modules;
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
  if (spec["lora_plus_ratio"] != 1.0) config.optimizer.lora_plus_ratio = spec["lora_plus_ratio"].get<double>();
  config.schedule = {ScheduleOf(spec["schedule"]), spec["warmup_steps"]};
  config.init = spec.value("init", "given") == "pissa"   ? LeafInit::kPissa
                : spec.value("init", "given") == "olora" ? LeafInit::kOlora
                                                         : LeafInit::kDefault;
  const std::string bias = spec.value("bias", "none");
  if (bias != "none") config.adapter.bias = bias == "all" ? PeftBias::kAll : PeftBias::kLoraOnly;
  config.adapter.modules_to_save = spec.value("modules_to_save", std::vector<std::string>());
  config.adapter.trainable_tokens = TokensOf(spec.value("trainable_tokens", ordered_json()));
  config.padding_token = spec.value("pad_token", -1);
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

// The mean of minus the log-probabilities that serving gives the examples' tokens, by the adapter in the folder.
double ServedLoss(CausalLm& model, const BaseTables& tables, const std::string& folder,
                  const std::vector<Example>& examples) {
  const auto image = ReadAdapter(folder, model.base_shape(), *LocalFiles(), {.base_tables = tables});
  EXPECT_THAT(image, IsOk());
  if (!image.ok()) return 0;
  const auto pages = PagePool::Create(int64_t{64} << 20, 64 << 10).value();
  AdapterPool pool(pages.get(), model.base_shape());
  AdapterReservation reservation = pool.Reserve(/*id=*/1, PlanLayout(*image, DType::kF32)).value();
  Pack(*image, reservation.layout(), reservation.data());
  pool.Commit(std::move(reservation));
  const AdapterLease lease = pool.Acquire(1).value();
  SlotSeam seam(pool.slots());
  std::vector<GoldenCase> cases;
  for (const Example& example : examples)
    cases.push_back({.name = "trained", .prompt = example.token_ids, .max_tokens = 1});
  const auto answers =
      RunGolden(model, seam, cases,
                [&](const GoldenCase&) { return std::vector<SlotTerm>{{.slot = lease.slot(), .scale = 1.0f}}; }, {});
  EXPECT_THAT(answers, IsOk());
  double sum = 0, count = 0;
  for (const GoldenAnswer& answer : *answers) {
    for (const double logprob : answer.prompt_logprobs) sum -= logprob;
    count += static_cast<double>(answer.prompt_logprobs.size());
  }
  return sum / count;
}

StepReport NextReport(Trainer& trainer) {
  while (true) {
    const auto slice = trainer.Advance();
    EXPECT_THAT(slice, IsOk());
    if (!slice.ok()) return {};
    if (slice->has_value()) return **slice;
  }
}

class TraceTest : public testing::TestWithParam<std::string> {};

TEST_P(TraceTest, LossesAndGradientsArePeftsAndTheResultIsServedAsItWasTrained) {
  const std::string folder = absl::StrCat(GoldenDir(), "/training/", GetParam());
  std::ifstream file(folder + "/trace.json");
  const ordered_json trace = ordered_json::parse(file);
  const std::string base_dir = absl::StrCat(GoldenDir(), "/", trace["spec"]["base"].get<std::string>(), "/model");
  const TrainBase base = LoadTrainBase(trace["spec"]["base"]);
  const auto served_model = CausalLm::Load(base_dir, {.dtype = DType::kF32});
  ASSERT_THAT(served_model, IsOk());

  const ExampleSource source = FileExamples(folder + "/data.jsonl");
  // Evaluated behind the last step that is done, on tokens that all count.
  std::vector<Example> judged;
  for (int64_t i = 0; i < 4; ++i) {
    judged.push_back(*source.get(i));
    judged.back().labels = judged.back().token_ids;
  }
  const ExampleSource judged_source = {static_cast<int64_t>(judged.size()),
                                       [&](int64_t i) { return judged[static_cast<size_t>(i)]; }};
  TrainConfig config = ConfigOf(trace["spec"], static_cast<int64_t>(trace["steps"].size()));
  const int64_t steps = std::min(config.total_steps, MostTracedSteps());
  config.eval_every_steps = steps;
  auto trainer = Trainer::Create(config, base.model.get(), base.tables, source, judged_source);
  ASSERT_THAT(trainer, IsOk());
  if (std::filesystem::exists(folder + "/adapter")) {  // else it begins from the base's weights
    const auto begin =
        ReadAdapter(folder + "/adapter", base.model->base_shape(), *LocalFiles(), {.base_tables = base.tables});
    ASSERT_THAT(begin, IsOk());
    ASSERT_THAT((*trainer)->CopyFrom(*begin), IsOk());
  }

  for (int64_t step = 0; step < steps; ++step) {
    const ordered_json& expected = trace["steps"][static_cast<size_t>(step)];
    const StepReport report = NextReport(**trainer);
    const double loss = expected["loss"], norm = expected["grad_norm"];
    EXPECT_NEAR(report.loss, loss, kLossTolerance * std::abs(loss)) << "step " << report.step;
    EXPECT_NEAR(report.grad_norm, norm, kNormTolerance * norm) << "step " << report.step;
    EXPECT_NEAR(report.learning_rate, expected["learning_rate"].get<double>(), 1e-12) << "step " << report.step;
  }
  const StepReport evaluation = NextReport(**trainer);
  EXPECT_EQ((*trainer)->done(), steps == config.total_steps);
  const std::string written = absl::StrCat(testing::TempDir(), "/trace-", GetParam());
  std::filesystem::create_directories(written);
  ASSERT_THAT((*trainer)->SaveAdapter(written, trace["spec"]["base"]), IsOk());
  const double served = ServedLoss(**served_model, base.tables, written, judged);
  EXPECT_NEAR(evaluation.eval_loss.value_or(0), served, kLossTolerance * served);
}

INSTANTIATE_TEST_SUITE_P(Golden, TraceTest, testing::ValuesIn(ListDir(GoldenDir() + "/training")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lorad
