#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/device_step.h"
#include "model/ops/draw_row.h"
#include "model/sampler/sampler.h"

namespace lorad {

// Sample where the logits lie, on a CUDA device, in two halves: the draws are queued, and their tokens are fetched when
// they are wanted. Every option is computed there; the numbers are Sample's but for the last bits of exponentials, so
// that a draw differs where it falls within them. Tokens and log-probabilities come back in one copy.
//
// Threads  one at a time, of the device's current stream.
class QueuedDraws final {
 public:
  // logits [L, V] f32, V <= kMostDrawnLogits (model/ops/draw_row.h), may be others' once this returns; rows, each of a
  // logit row of its own, which is overwritten where bias, bans and penalties change it. Nothing waits.
  // Errors: what the device answers.
  static absl::StatusOr<QueuedDraws> Queue(at::Tensor& logits, absl::Span<const SampleRow> rows);

  // [R] int32 on the device: the rows' tokens once the stream has come there; -1 where there is none.
  at::Tensor tokens() const;

  // Waits for them. Errors of single rows: as Sample. Throws what the device answers.
  SampleResult Fetch() const;

 private:
  QueuedDraws() = default;

  std::vector<DrawRow> rows_;
  int64_t most_ = 0;    // alternatives of a row
  at::Tensor drawn_;    // [DrawnBytes(R, most)] uint8 on the device
  at::Tensor on_host_;  // the same, pinned, once the copy behind it has been awaited
  StreamMark copied_;
};

// Both at once.
absl::StatusOr<SampleResult> SampleOnDevice(at::Tensor& logits, absl::Span<const SampleRow> rows);

}  // namespace lorad
