#include "adapters/invocation.h"

#include <cstddef>
#include <vector>

namespace lorad {

// Knuth, Morris and Pratt from the end on: linear, however much the tokens repeat themselves.
int64_t ActiveFrom(absl::Span<const int32_t> prompt, absl::Span<const int32_t> invocation_tokens) {
  const size_t length = invocation_tokens.size();
  if (length == 0) return 0;
  const auto wanted = [&](size_t i) { return invocation_tokens[length - 1 - i]; };
  std::vector<size_t> border(length, 0);  // of the first i + 1 wanted: the longest proper beginning that is their end
  for (size_t i = 1, match = 0; i < length; ++i) {
    while (match > 0 && wanted(i) != wanted(match)) match = border[match - 1];
    match += wanted(i) == wanted(match);
    border[i] = match;
  }
  for (size_t position = prompt.size(), match = 0; position-- > 0;) {
    while (match > 0 && prompt[position] != wanted(match)) match = border[match - 1];
    match += prompt[position] == wanted(match);
    if (match == length) return static_cast<int64_t>(position);
  }
  return kNeverActive;
}

}  // namespace lorad
