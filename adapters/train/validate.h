#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/train/example_reader.h"
#include "adapters/train/lines.h"

namespace lorad {

// What a whole file of examples amounts to.
struct DatasetSummary {
  int64_t examples = 0;
  int64_t tokens = 0;
  int64_t trained_tokens = 0;
  int64_t truncated = 0;       // examples cut to the maximum length
  int64_t longest_tokens = 0;  // before cutting
};

using ForEachLineFn = std::function<absl::Status(const LineVisitor& visit)>;

// Reads every line and gives each example to `keep`. Reads on behind a wrong line, to tell of the first few with their
// numbers and of how many there are.
//
// Errors   InvalidArgument for wrong lines or no example at all; what `lines` and `keep` answer.
absl::StatusOr<DatasetSummary> ReadDataset(const ForEachLineFn& lines, const ExampleReader& reader,
                                           const std::function<absl::Status(const Example&)>& keep);

}  // namespace lorad
