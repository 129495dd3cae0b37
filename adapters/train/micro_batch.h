#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "adapters/train/rows.h"
#include "model/adapter_seam.h"
#include "model/causal_lm.h"

namespace lorad {

// Forward and backward of one micro-batch, in slices of one layer or one piece of the head, so that serving can run
// between any two. The forward keeps the input of every trained layer and nothing else; the backward computes each
// layer again and follows it down. Gradients are added to those of the seam's leaves.
//
// Threads  the trainer's, while nobody else uses the model.
class MicroBatch final {
 public:
  // The loss is loss_scale times the sum of the trained tokens' cross entropies. `first_layer`: the lowest that has
  // leaves, -1 when some lie before the layers. Everything given outlives it.
  MicroBatch(CausalLm* model, AdapterSeam* seam, TrainRows rows, double loss_scale, int64_t first_layer);

  bool done() const { return phase_ == Phase::kDone; }
  // One slice. Errors: as the model's; the gradients are then worth nothing.
  absl::Status Advance();

  double loss_sum() const { return loss_sum_; }  // of cross entropies, unscaled; once done

 private:
  enum class Phase : uint8_t { kEmbed, kForward, kHead, kBackward, kEmbedBackward, kDone };

  absl::Status Embed();
  absl::Status Forward();
  absl::Status Head();
  absl::Status Backward();
  absl::Status EmbedBackward();
  // Follows the gradient that hidden_ holds down from `out`, which was recorded.
  absl::Status Follow(const HiddenRows& out);
  HiddenRows AsLeaf(const HiddenRows& rows, bool wants_gradient) const;

  CausalLm* const model_;
  AdapterSeam* const seam_;
  const TrainRows rows_;
  const double loss_scale_;
  const int64_t first_layer_;
  const int64_t layers_;
  Phase phase_ = Phase::kEmbed;
  int64_t layer_ = 0;
  std::vector<HiddenRows> inputs_;     // of the layers from first_layer on; given up on the way down
  HiddenRows hidden_;                  // what the last layer gave; on the way down its gradient, in the same parts
  std::vector<int32_t> trained_rows_;  // those that have a target
  size_t next_trained_row_ = 0;
  double loss_sum_ = 0;
};

}  // namespace lorad
