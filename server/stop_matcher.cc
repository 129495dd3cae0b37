#include "server/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace lorad {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& stop : stops) {
    Pattern pattern{std::move(stop), {}, 0};
    pattern.fallback.assign(pattern.text.size() + 1, 0);
    int32_t border = 0;
    for (size_t i = 1; i < pattern.text.size(); ++i) {
      while (border > 0 && pattern.text[i] != pattern.text[border]) border = pattern.fallback[border];
      if (pattern.text[i] == pattern.text[border]) ++border;
      pattern.fallback[i + 1] = border;
    }
    patterns_.push_back(std::move(pattern));
  }
}

StopMatcher::Result StopMatcher::Append(absl::string_view text) {
  if (patterns_.empty()) return {std::string(text), false};
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    held_.push_back(c);
    size_t found = 0;
    for (Pattern& pattern : patterns_) {
      while (pattern.matched > 0 && pattern.text[pattern.matched] != c)
        pattern.matched = pattern.fallback[pattern.matched];
      if (pattern.text[pattern.matched] == c) ++pattern.matched;
      if (pattern.matched == static_cast<int32_t>(pattern.text.size())) found = std::max(found, pattern.text.size());
    }
    if (found > 0) {
      held_.resize(held_.size() - found);
      return {std::exchange(held_, ""), true};
    }
  }
  size_t keep = 0;
  for (const Pattern& pattern : patterns_) keep = std::max(keep, static_cast<size_t>(pattern.matched));
  Result result{held_.substr(0, held_.size() - keep), false};
  held_.erase(0, held_.size() - keep);
  return result;
}

std::string StopMatcher::Finish() { return std::exchange(held_, ""); }

}  // namespace lorad
