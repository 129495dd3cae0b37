#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adapters/base_tables.h"
#include "adapters/train/trainer.h"
#include "model/causal_lm.h"

namespace lorad {

// A base of tests/golden in fp32, to train on.
struct TrainBase {
  std::unique_ptr<CausalLm> model;
  BaseTables tables;
};
TrainBase LoadTrainBase(const std::string& name);

// `count` examples of random tokens whose second halves are learnt; between 2 and `longest` tokens each.
ExampleSource RandomExamples(int64_t count, int64_t longest, uint64_t seed);

// LoRA of this rank on all linears, AdamW, for so many steps.
TrainConfig SmallConfig(int64_t rank, int64_t steps);

std::unique_ptr<Trainer> MakeTrainer(const TrainBase& base, const TrainConfig& config, const ExampleSource& source);

}  // namespace lorad
