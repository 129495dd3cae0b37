#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "adapters/image.h"
#include "model/sites.h"

namespace lorad {

// Told after each tensor; false ends the work with Cancelled.
using MergeProgressFn = std::function<bool(int64_t tensors_done, int64_t tensors_total)>;

// Writes the base in `model_dir` with `image` merged into its weights to `output_dir`, as an HF folder that answers as
// base and adapter do together: weights as safetensors in the base's dtypes, config.json, and the files of tokenizer
// and generation as they are. The folder appears whole or not at all, and never in the place of another.
//
// A base whose embedding and head are one becomes untied where the adapter touches either: PEFT's unmerged adapter
// changes that one alone. (Its merge_and_unload changes both, and answers something else.)
//
// Errors   Unimplemented, with the reason, for a kind that is not weights alone; FailedPrecondition for a bias that the
//          base has no place for; AlreadyExists; ResourceExhausted for a full disk; DataLoss where a sum is not finite.
absl::Status WriteMerged(const std::string& model_dir, const BaseShape& base, const AdapterImage& image,
                         const std::string& output_dir, const MergeProgressFn& progress);

}  // namespace lorad
