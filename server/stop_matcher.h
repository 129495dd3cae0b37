#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace lorad {

// Finds the first stop string in a text that comes in pieces, and holds back what may be the beginning of one.
//
// First is the one that is complete first; of those that end together, the longest. So the answer does not depend on
// how the text was cut. Cost: bytes times stop strings, whatever they are (Knuth, Morris, Pratt 1977).
class StopMatcher final {
 public:
  // Empty strings are not allowed.
  explicit StopMatcher(std::vector<std::string> stops);

  struct Result {
    std::string text;      // safe to show
    bool stopped = false;  // `text` ends where the stop string began; nothing may follow
  };
  Result Append(absl::string_view text);

  // What was held back, when no more text comes.
  std::string Finish();

 private:
  struct Pattern {
    std::string text;
    std::vector<int32_t> fallback;  // length of the longest border of each prefix
    int32_t matched = 0;            // bytes of the pattern that the text now ends with
  };
  std::vector<Pattern> patterns_;
  std::string held_;
};

}  // namespace lorad
