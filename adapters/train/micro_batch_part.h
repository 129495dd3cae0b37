#pragma once

#include <cstdint>
#include <vector>

#include "adapters/train/example.h"
#include "adapters/train/row_loss.h"

namespace lorad {

class AdapterLeaves;

// One sequence as rows: row t sees tokens 0..t and predicts targets[t], or nothing where that is kNotTrained.
struct TrainSequence {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> targets;  // [token_ids]
};

// The labels of an example moved up by one.
TrainSequence SequenceOf(const Example& example);

// One adapter's share of a micro-batch.
struct MicroBatchPart {
  const AdapterLeaves* leaves = nullptr;  // outlive the micro-batch
  double dropout = 0.0;
  double expert_dropout = 0.0;  // of the pairs that belong to experts
  // Of a training step: the noise of routers and the capacity of experts count. An evaluation has neither.
  bool is_step = false;
  double router_loss_scale = 0.0;  // of the routers' loss, where it is followed down; 0: it is not
  // Changes with every micro-batch: the masks of one are a function of it, so that a layer that is computed again for
  // its backward drops the same elements.
  uint64_t dropout_seed = 0;
  std::vector<TrainSequence> sequences;
  RowLoss loss;
};

struct PartResult {
  double loss_sum = 0;          // of the trained rows' losses, unscaled
  std::vector<float> logprobs;  // [trained rows] of the targets
  double router_loss = 0;       // of an adapter with routers, as its coefficients say, unscaled
};

}  // namespace lorad
