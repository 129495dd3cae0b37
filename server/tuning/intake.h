#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/train/example_reader.h"
#include "adapters/train/validate.h"
#include "lorad/v1/finetuning.pb.h"
#include "server/backend.h"
#include "server/tuning/tuning_spec.h"

namespace lorad {

struct IntakeResult {
  DatasetSummary summary;
  std::string digest;  // of the examples, hex
};

// Reads all of the data, checks every line and copies the examples into the store `prefix`
// (adapters/train/example_store.h). Errors: InvalidArgument with the lines' numbers; of the file; Unimplemented.
absl::StatusOr<IntakeResult> TakeIn(const TuningData& data, const Backend& backend, const std::string& prefix);

// One line of the data as training would see it.
absl::StatusOr<v1::PreviewExampleResponse> PreviewLine(const TuningData& data, const Backend& backend, int64_t line);

}  // namespace lorad
