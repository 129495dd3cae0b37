#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adapters/base_tables.h"
#include "adapters/train/trainer.h"
#include "model/causal_lm.h"

namespace lorad {

// Where the bases of these tests lie: the CPU, unless a program says otherwise before its first test.
at::Device& TrainDevice();
// Steps of a golden trace that are done again: all, unless a program says otherwise.
int64_t& MostTracedSteps();

// A base of tests/golden, to train on.
struct TrainBase {
  std::unique_ptr<CausalLm> model;
  BaseTables tables;
};
TrainBase LoadTrainBase(const std::string& name, DType dtype = DType::kF32);

// `count` examples of random tokens whose second halves are learnt; between 2 and `longest` tokens each.
ExampleSource RandomExamples(int64_t count, int64_t longest, uint64_t seed);

// Of a file with lines of {"input_ids": [], "labels": []}.
ExampleSource FileExamples(const std::string& path);

// LoRA of this rank on all linears, AdamW, for so many steps.
TrainConfig SmallConfig(int64_t rank, int64_t steps);

// One of MoE-PEFT's kinds by its name, as "mixlora-dynamic": experts of rank 3, four of them; all linears, a loss for
// its routers where the kind has one, no noise.
RoutedTraining SmallRouting(const std::string& name);

std::unique_ptr<Trainer> MakeTrainer(const TrainBase& base, const TrainConfig& config, const ExampleSource& source);

}  // namespace lorad
