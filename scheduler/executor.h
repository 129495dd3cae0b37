#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/sampler/sampling_options.h"
#include "scheduler/observer.h"
#include "scheduler/plan.h"

namespace lorad {

struct RowResult {
  absl::Status status;  // not ok: this row's sequence failed alone (non-finite logits)
  bool sampled = false;
  std::vector<float> class_logits;  // [classes] of a row that wants them
  TokenLogprob token;               // when sampled; logprob and top are filled when options ask for them
  // When asked for: entry i is the log-probability of the prompt token at position first_position + i + 1, given those
  // before it; the row's last position has one only if its next prompt token exists.
  std::vector<TokenLogprob> prompt_logprobs;
};

struct StepResult {
  std::vector<RowResult> rows;  // as the launched rows
  int64_t execute_us = 0;
  DeviceStep device = {};
};

using Ticket = int64_t;

// Runs steps on the device, one after the other. Launch starts a step (the CPU's completes it there) and has read its
// rows when it returns; Wait gives the result, of the oldest first. An error of Wait fails the step's rows, nothing
// else. `expected_us`: how long the step will take, 0 where that is not known.
class StepExecutor {
 public:
  virtual ~StepExecutor() = default;
  virtual Ticket Launch(absl::Span<const ExecRow> rows, int64_t expected_us) = 0;
  virtual absl::StatusOr<StepResult> Wait(Ticket ticket) = 0;
  // Whether another step may be launched behind the one in flight, whose rows may go on from tokens that this one draws
  // (ExecRow::from_draw). Else at most one is in flight.
  virtual bool TakesStepBehind() const { return false; }
};

}  // namespace lorad
