#pragma once

#include <string>

#include "absl/status/status.h"
#include "adapters/train/leaves.h"
#include "adapters/train/optimizer.h"

namespace lorad {

// All that an adapter's training goes on from, to the same bits: the leaves with their constants, the optimizer's
// states and its steps. Errors: as tensor_file.h; DataLoss also for a number of steps that is none. A state
// that does not fit changes nothing.
//
// `base_digest`: of what is trained on. FailedPrecondition: the state was trained on another base; one of before states
// said so is taken.
absl::Status SaveTrainingState(const std::string& path, const std::string& base_digest, const AdapterLeaves& leaves,
                               const Optimizer& optimizer);
absl::Status LoadTrainingState(const std::string& path, const std::string& base_digest, AdapterLeaves* leaves,
                               Optimizer* optimizer);

}  // namespace lorad
