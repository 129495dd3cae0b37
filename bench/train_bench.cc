// Training tokens a second of 1, 4 and 8 jobs in one batch, and of as many one after another.
//
//   train_bench MODEL_DIR [--steps=4] [--tokens=32] [--sequences=1] [--rank=8] [--jobs=1,4,8] [--dtype=f32|bf16]
//
// Each job: LoRA on all linears, the base in fp32 or bf16, AdamW, its own random sequences of so many tokens, all
// learnt. Prints a line of JSON for each number of jobs. bench/train_compare.py puts peft beside it.
#include <chrono>
#include <cstdio>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "adapters/train/shared_batch.h"
#include "adapters/train/trainer.h"
#include "model/base/check.h"
#include "model/causal_lm.h"

namespace lorad {
namespace {

struct Flags {
  int64_t steps = 4, tokens = 32, sequences = 1, rank = 8;
  std::vector<int64_t> jobs = {1, 4, 8};
  DType dtype = DType::kF32;
};

ExampleSource RandomSequences(int64_t vocab, int64_t tokens, uint64_t seed) {
  return {1000, [=](int64_t index) -> absl::StatusOr<Example> {
            std::mt19937_64 random(seed * 1000 + static_cast<uint64_t>(index));
            Example example;
            for (int64_t t = 0; t < tokens; ++t) {
              example.token_ids.push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocab)));
            }
            example.labels = example.token_ids;
            return example;
          }};
}

std::vector<std::unique_ptr<Trainer>> MakeTrainers(CausalLm* model, const Flags& flags, int64_t jobs) {
  TrainConfig config;
  config.adapter.rank = flags.rank;
  config.adapter.alpha = 2.0 * static_cast<double>(flags.rank);
  config.adapter.all_linear = true;
  config.total_steps = flags.steps;
  config.batch_size = config.micro_batch_size = flags.sequences;
  std::vector<std::unique_ptr<Trainer>> trainers;
  for (int64_t j = 0; j < jobs; ++j) {
    config.seed = static_cast<uint64_t>(j);
    auto trainer = Trainer::Create(config, model, BaseTables(),
                                   RandomSequences(model->config().vocab_size, flags.tokens, static_cast<uint64_t>(j)));
    LORAD_CHECK(trainer.ok());
    trainers.push_back(*std::move(trainer));
  }
  return trainers;
}

// Until each is done.
void Train(CausalLm* model, std::vector<Trainer*> trainers) {
  while (!trainers[0]->done()) {  // all have the same number of steps
    SharedBatch batch(model, trainers);
    absl::StatusOr<bool> ended = false;
    while (ended.ok() && !*ended) ended = batch.Advance();
    LORAD_CHECK(ended.ok());
  }
}

double TokensPerSecond(CausalLm* model, const Flags& flags, int64_t jobs, bool together) {
  const auto trainers = MakeTrainers(model, flags, jobs);
  const auto began = std::chrono::steady_clock::now();
  std::vector<Trainer*> all;
  for (const auto& trainer : trainers) all.push_back(trainer.get());
  if (together) {
    Train(model, all);
  } else {
    for (Trainer* const trainer : all) Train(model, {trainer});
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return static_cast<double>(jobs * flags.steps * flags.sequences * flags.tokens) / seconds;
}

int Main(int argc, char** argv) {
  Flags flags;
  std::string model_dir;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const size_t equals = arg.find('=');
    const std::string name = arg.substr(0, equals), value = equals == std::string::npos ? "" : arg.substr(equals + 1);
    if (name == "--steps") {
      flags.steps = std::stoll(value);
    } else if (name == "--tokens") {
      flags.tokens = std::stoll(value);
    } else if (name == "--sequences") {
      flags.sequences = std::stoll(value);
    } else if (name == "--rank") {
      flags.rank = std::stoll(value);
    } else if (name == "--dtype") {
      flags.dtype = value == "bf16" ? DType::kBF16 : DType::kF32;
    } else if (name == "--jobs") {
      flags.jobs.clear();
      std::istringstream list(value);
      for (std::string count; std::getline(list, count, ',');) flags.jobs.push_back(std::stoll(count));
    } else {
      model_dir = arg;
    }
  }
  auto model = CausalLm::Load(model_dir, {.dtype = flags.dtype});
  if (!model.ok()) {
    std::fprintf(stderr, "train_bench: %s\n", model.status().ToString().c_str());
    return 1;
  }
  Flags warm = flags;
  warm.steps = 1;
  TokensPerSecond(model->get(), warm, 1, /*together=*/true);
  for (const int64_t jobs : flags.jobs) {
    const double together = TokensPerSecond(model->get(), flags, jobs, /*together=*/true);
    const double alone = jobs == 1 ? together : TokensPerSecond(model->get(), flags, jobs, /*together=*/false);
    std::printf("{\"jobs\": %lld, \"together\": %.2f, \"one_after_another\": %.2f}\n", static_cast<long long>(jobs),
                together, alone);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace lorad

int main(int argc, char** argv) { return lorad::Main(argc, argv); }
