#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "adapters/train/micro_batch_part.h"
#include "adapters/train/rows.h"
#include "adapters/train/trainable_seam.h"
#include "model/causal_lm.h"
#include "model/device_step.h"

namespace lorad {

// Whose logits one slice of the head has on a device.
int64_t HeadRowsOnDevice(int64_t vocab_size);

// Forward and backward of one micro-batch, in slices of one layer or one piece of the head, so that serving can run
// between any two. The rows of several adapters lie side by side: the base sees one batch, each adapter its own rows.
// The forward keeps the input of every trained layer, and of the last ones all that their backward needs, as many as
// fit `kept_bytes`; the others are computed again on the way down. Gradients are added to those of the parts' leaves.
// On a device a slice is queued; the host waits for one copy, of the losses, behind the head, and where a loss is no
// cross entropy for one copy a piece of the head: its gradient depends on its value.
//
// Threads  the trainer's, while nobody else uses the model.
class MicroBatch final {
 public:
  MicroBatch(CausalLm* model, std::vector<MicroBatchPart> parts, int64_t kept_bytes);

  bool done() const { return phase_ == Phase::kDone; }
  // One slice. Errors: as the model's; the gradients are then worth nothing.
  absl::Status Advance();

  const std::vector<PartResult>& results() const { return results_; }  // by part; once done

 private:
  enum class Phase : uint8_t { kEmbed, kForward, kHead, kBackward, kEmbedBackward, kDone };

  absl::Status Embed();
  absl::Status Forward();
  absl::Status Head();
  absl::Status EndForward();
  absl::Status Backward();
  absl::Status EmbedBackward();
  // The derivatives of the scaled losses of trained rows [first, first + L) by their log-probabilities [L], beside
  // them.
  at::Tensor DerivativesOf(size_t first, const at::Tensor& logprobs) const;
  void TakeLosses();  // of all trained rows, whose log-probabilities are there
  PlacedBatch WithLogitRows(size_t first, size_t count) const;
  // Follows the gradient that hidden_ holds down from `out`, which was recorded.
  absl::Status Follow(const HiddenRows& out);
  HiddenRows AsLeaf(const HiddenRows& rows, bool wants_gradient) const;

  struct KeptLayer {
    HiddenRows in;
    HiddenRows out;  // recorded from `in`; undefined: to be computed again
  };

  CausalLm* const model_;
  const std::vector<MicroBatchPart> parts_;
  TrainableSeam seam_;
  const TrainRows rows_;
  const PlacedBatch batch_;      // rows_.batch
  const at::Tensor logit_rows_;  // [trained rows] int32, on the device
  const at::Tensor targets_;     // [trained rows] int64
  const int64_t first_layer_;    // the lowest that has leaves, -1 when some lie before the layers
  const int64_t layers_;
  const int64_t first_recorded_;  // layers from it on are not computed again
  Phase phase_ = Phase::kEmbed;
  int64_t layer_ = 0;
  std::vector<KeptLayer> kept_;  // of the layers from first_layer on; given up on the way down
  HiddenRows hidden_;            // what the last layer gave; on the way down its gradient, in the same parts
  size_t next_trained_row_ = 0;
  std::vector<at::Tensor> logprobs_;  // [trained rows] of the head so far
  std::vector<PartResult> results_;
};

}  // namespace lorad
