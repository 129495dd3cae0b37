#include "tests/train/train_fixture.h"

#include <fstream>
#include <limits>
#include <random>
#include <utility>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "adapters/checkpoint_tables.h"
#include "tests/support/source_dir.h"

namespace lorad {
namespace {

constexpr int32_t kSmallestVocabulary = 96;  // of the golden bases

}  // namespace

at::Device& TrainDevice() {
  static at::Device device = at::kCPU;
  return device;
}

int64_t& MostTracedSteps() {
  static int64_t steps = std::numeric_limits<int64_t>::max();
  return steps;
}

TrainBase LoadTrainBase(const std::string& name, DType dtype) {
  const std::string dir = absl::StrCat(SourceDir(), "/tests/golden/", name, "/model");
  TrainBase base;
  auto model = CausalLm::Load(dir, {.dtype = dtype, .device = TrainDevice()});
  if (!model.ok()) {
    ADD_FAILURE() << model.status();
    return base;
  }
  base.model = *std::move(model);
  auto tables = OpenBaseTables(dir, base.model->base_shape());
  EXPECT_TRUE(tables.ok()) << tables.status();
  if (tables.ok()) base.tables = *std::move(tables);
  return base;
}

ExampleSource RandomExamples(int64_t count, int64_t longest, uint64_t seed) {
  std::mt19937_64 random(seed);
  auto examples = std::make_shared<std::vector<Example>>();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tokens = 2 + static_cast<int64_t>(random() % static_cast<uint64_t>(longest - 1));
    Example example;
    for (int64_t t = 0; t < tokens; ++t) {
      example.token_ids.push_back(3 + static_cast<int32_t>(random() % (kSmallestVocabulary - 3)));
      example.labels.push_back(t < tokens / 2 ? kNotTrained : example.token_ids.back());
    }
    examples->push_back(std::move(example));
  }
  return {count, [examples](int64_t i) { return (*examples)[static_cast<size_t>(i)]; }};
}

ExampleSource FileExamples(const std::string& path) {
  auto examples = std::make_shared<std::vector<Example>>();
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json json = nlohmann::json::parse(line);
    examples->push_back({json["input_ids"].get<std::vector<int32_t>>(), json["labels"].get<std::vector<int32_t>>()});
  }
  return {std::ssize(*examples), [examples](int64_t i) { return (*examples)[static_cast<size_t>(i)]; }};
}

RoutedTraining SmallRouting(const std::string& name) {
  const MoeStrategy& strategy = *FindMoeStrategy(name);
  RoutedTraining routed;
  routed.moe.kind = strategy.kind;
  routed.moe.name = strategy.name;
  routed.moe.prefix = strategy.prefix;
  routed.moe.lora = {2, 2.0f};
  routed.moe.expert = {3, 1.5f};
  routed.moe.experts = 4;
  RoutingRule& rule = routed.moe.routing;
  rule = {.choice = RoutingRule::Choice::kTopK, .top_k = 2, .renormalise = true};
  if (name == "mixlora-dynamic") rule = {.choice = RoutingRule::Choice::kTopP, .top_p = 0.6f, .temperature = 1.25f};
  if (routed.is_switch() || name == "loramoe") {
    rule = {.choice = RoutingRule::Choice::kTopK, .top_k = routed.is_switch() ? 1 : routed.moe.experts};
  }
  routed.router_init_range = 0.5;
  routed.aux_loss_coef = name == "loramoe" ? 0.0 : 0.05;
  routed.z_loss_coef = routed.is_switch() ? 0.02 : 0.0;
  return routed;
}

TrainConfig SmallConfig(int64_t rank, int64_t steps) {
  TrainConfig config;
  config.adapter.rank = rank;
  config.adapter.alpha = 2.0 * static_cast<double>(rank);
  config.adapter.all_linear = true;
  config.optimizer.learning_rate = 1e-3;
  config.total_steps = steps;
  config.batch_size = 2;
  config.seed = static_cast<uint64_t>(rank);
  return config;
}

std::unique_ptr<Trainer> MakeTrainer(const TrainBase& base, const TrainConfig& config, const ExampleSource& source) {
  auto trainer = Trainer::Create(config, base.model.get(), base.tables, source);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  return trainer.ok() ? *std::move(trainer) : nullptr;
}

}  // namespace lorad
