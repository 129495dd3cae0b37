#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

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

}  // namespace lorad
