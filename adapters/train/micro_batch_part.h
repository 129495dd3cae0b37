#pragma once

#include <cstdint>
#include <memory>
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

// How all rows of a call chose among the experts, where the call is more than one part: a router's loss is a statistic
// of all of them. Parts add to it when their forward is done, until it is complete. One of a call in several batches
// has to be so before anything of the loss is followed down.
struct RouterTally {
  int64_t rows = 0;            // each as often as it has routers
  std::vector<double> chosen;  // [experts]
  bool complete = false;
};

// One adapter's share of a micro-batch.
struct MicroBatchPart {
  const AdapterLeaves* leaves = nullptr;  // outlive the micro-batch
  double dropout = 0.0;
  double expert_dropout = 0.0;  // of the pairs that belong to experts
  // Of a training step. An evaluation has neither.
  bool has_noise = false;                               // what routers see is multiplied by it, as the adapter says
  bool has_capacity = false;                            // that of the adapter's experts counts
  double router_loss_scale = 0.0;                       // of the routers' loss, where it is followed down; 0: it is not
  std::shared_ptr<RouterTally> router_tally = nullptr;  // the call's; null: this part is all of it
  // Changes with every micro-batch: the masks of one are a function of it, so that a layer that is computed again for
  // its backward drops the same elements.
  uint64_t dropout_seed = 0;
  std::vector<TrainSequence> sequences;
  RowLoss loss;
};

struct PartResult {
  double loss_sum = 0;          // of the trained rows' losses, unscaled
  std::vector<float> logprobs;  // [trained rows] of the targets
  // Of an adapter with routers, as its coefficients say, unscaled; with a tally this part's share of the call's.
  double router_loss = 0;
};

}  // namespace lorad
