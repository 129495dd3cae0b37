#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"

namespace lorad {

inline constexpr int32_t kNotTrained = -100;

// One sequence to train on. labels[i] is token_ids[i] where its prediction from the tokens before it is learnt, else
// kNotTrained; the shift by one happens in the loss.
struct Example {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> labels;  // [token_ids]
};

// How many predictions an example is scored on: labels from the second token on.
inline int64_t TrainedTokens(const Example& example) {
  int64_t count = 0;
  for (size_t i = 1; i < example.labels.size(); ++i) count += example.labels[i] != kNotTrained;
  return count;
}

// Where a trainer's examples come from: example `index` of [0, count).
struct ExampleSource {
  int64_t count = 0;
  std::function<absl::StatusOr<Example>(int64_t index)> get;
  // Packing: entry i of a batch holds examples [pack_starts[i], pack_starts[i + 1]), each a sequence of its own. Empty:
  // one example each.
  std::vector<int64_t> pack_starts = {};
  // How many tokens example `index` has; of sources on disk.
  std::function<absl::StatusOr<int64_t>(int64_t index)> tokens = nullptr;

  int64_t entries() const { return pack_starts.empty() ? count : static_cast<int64_t>(pack_starts.size()) - 1; }
};

}  // namespace lorad
