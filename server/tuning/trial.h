#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/train/example_sets.h"
#include "server/backend.h"

namespace lorad {

// Tries out what a job made, on the engine, under a name of its own for as long as that takes.
//
// Threads  as Probe (server/tuning/probe.h).
struct Trial {
  const Backend* backend;
  std::string job;
  std::string adapter;  // the name that it is to be published under
  ExampleSets sets;
  std::optional<double> max_eval_loss_increase;
  std::vector<std::string> prompts;

  // Shapes and numbers are checked when the folder is loaded, logits on an example; and, where that is asked for, the
  // loss on sets.eval against that of the adapter which is served. Errors: the loader's; DataLoss for a logit that is
  // not finite; FailedPrecondition, with both losses.
  absl::Status Validate(const std::string& folder) const;
  // The prompts with what is answered to them, a line each.
  absl::StatusOr<std::string> Sample(const std::string& folder) const;
};

}  // namespace lorad
