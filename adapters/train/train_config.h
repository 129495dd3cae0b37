#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "adapters/kinds/moe_config.h"
#include "adapters/kinds/peft_config.h"

namespace lorad {

enum class LeafInit : uint8_t {
  kDefault,   // A uniform in +-1/sqrt(in), B zero
  kGaussian,  // A normal with deviation 1/rank, B zero
  // The pair is a part of the base's weight, which trains without it; a saved adapter gives the part back.
  kPissa,  // the largest singular values and vectors
  kOlora,  // the first columns of QR
};
constexpr bool TakesOffBase(LeafInit init) { return init == LeafInit::kPissa || init == LeafInit::kOlora; }
enum class OptimizerKind : uint8_t { kAdamW, kSgd };
enum class ScheduleKind : uint8_t { kConstant, kLinear, kCosine };
enum class LossNormalization : uint8_t {
  kTokenMean,       // over the trained tokens of the whole step, as transformers' Trainer since 4.46
  kMicroBatchMean,  // the mean of the micro-batches' means, as a plain loop
};

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double learning_rate = 1e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double max_grad_norm = 1.0;  // 0 = no clipping
  double momentum = 0.0;       // sgd
  // LoRA+: the learning rate of B and of vectors, as a multiple of A's. Unset: all have one.
  std::optional<double> lora_plus_ratio = {};
};

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::kConstant;
  int64_t warmup_steps = 0;
};

// An adapter whose rows go to experts of its own. Defaults, formulas and names are MoE-PEFT's.
struct RoutedTraining {
  MoeConfig moe;                   // kind, ranks, experts, rule, targets by name; none: every linear
  double expert_dropout = 0.0;     // of experts; the rest has TrainConfig::dropout
  double router_init_range = 0.0;  // deviation of MixLoRA's routers; of the others kaiming_uniform's a, squared
  double aux_loss_coef = 0.0;      // of how unevenly rows are dealt; 0 = not in the loss
  double z_loss_coef = 0.0;        // of the size of the routers' logits: mixlora-switch
  double jitter_noise = 0.0;       // inputs of routers are multiplied by 1 - j to 1 + j: MixLoRA
  int64_t expert_capacity = 0;     // rows of a sequence that an expert takes: mixlora-switch; 0 = any number

  bool is_switch() const { return moe.name == "mixlora-switch"; }
  bool has_loss() const { return aux_loss_coef > 0 || z_loss_coef > 0; }
};

// Asked between pieces of work that take long (the decomposition of a weight); not ok ends the work with that. Empty:
// go on.
using GoOnFn = std::function<absl::Status()>;

// What one job trains and how, resolved: every default is filled in. Torch-free.
struct TrainConfig {
  PeftLoraConfig adapter;
  std::optional<RoutedTraining> routed = std::nullopt;  // then `adapter` has no say
  double dropout = 0.0;
  LeafInit init = LeafInit::kDefault;
  bool begins_from_state = false;  // one is loaded before anything else, so no pair is made of the base's weight
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  int64_t total_steps = 0;
  int64_t batch_size = 8;        // sequences of an optimizer step
  int64_t micro_batch_size = 1;  // sequences of one forward and backward; divides batch_size
  uint64_t seed = 0;
  std::string base_digest;     // of the base, which states are tied to; "": to none
  int32_t padding_token = -1;  // of the base: its row of the embedding learns nothing where it is looked up; -1: none
  LossNormalization normalization = LossNormalization::kTokenMean;
  bool shuffle = true;
  int64_t eval_every_steps = 0;  // with examples to evaluate on
};

}  // namespace lorad
