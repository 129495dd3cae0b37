#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "adapters/train/micro_batch_part.h"
#include "adapters/train/row_loss.h"
#include "adapters/train/train_config.h"

namespace lorad {

enum class RunOpKind : uint8_t { kForwardBackward, kOptimStep, kSaveState, kLoadState, kSaveForSampling };

// One operation on a run. Every row of `sequences` is trained; the loss's vectors are over the rows of all of them.
struct RunOp {
  RunOpKind kind = RunOpKind::kForwardBackward;
  std::vector<TrainSequence> sequences;
  RowLoss loss;
  std::optional<double> router_loss_weight = {};  // unset: 1
  OptimizerConfig optimizer;
  std::string label;     // kSaveState; "" = none
  std::string state_id;  // kLoadState
  bool make_current = false;
};

// What an operation answers; the fields of its kind.
struct RunResult {
  double loss = 0;
  std::optional<double> router_loss = {};    // weighted; added to the gradients, not to `loss`
  std::vector<std::vector<float>> logprobs;  // by sequence, of its targets
  double grad_norm = 0;
  std::string id;  // of the state, or the revision
};

}  // namespace lorad
