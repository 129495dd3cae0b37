#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/train/example_reader.h"
#include "adapters/train/validate.h"
#include "lorad/v1/finetuning.pb.h"
#include "model/text/chat_template.h"
#include "server/backend.h"
#include "server/tuning/tuning_spec.h"

namespace lorad {

struct IntakeResult {
  DatasetSummary summary;
  std::string digest;  // of the examples, hex
};

// What a line is read with.
struct TextParts {
  const Backend& backend;
  const absl::StatusOr<std::shared_ptr<const ChatTemplate>>& chat_template;  // or why the model has none
  std::function<absl::Status()> go_on;  // asked at each line; not ok ends the reading with it
};

// Reads all of the data, checks every line and copies the examples into the store `prefix`
// (adapters/train/example_store.h). Errors: InvalidArgument with the lines' numbers; of the file; Unimplemented.
absl::StatusOr<IntakeResult> TakeIn(const TuningData& data, const TextParts& parts, const std::string& prefix);

// One line of the data as training would see it.
absl::StatusOr<v1::PreviewExampleResponse> PreviewLine(const TuningData& data, const TextParts& parts, int64_t line);

}  // namespace lorad
