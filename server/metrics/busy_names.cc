#include "server/metrics/busy_names.h"

#include <algorithm>

namespace lorad {

BusyNames::Counts::iterator BusyNames::Least(Counts* counts) {
  return std::min_element(counts->begin(), counts->end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; });
}

BusyNames::Change BusyNames::Count(const std::string& name, int64_t amount) {
  if (const auto it = shown_.find(name); it != shown_.end()) {
    it->second += amount;
    return {true, std::nullopt};
  }
  if (shown_.size() < max_shown_) {
    shown_.emplace(name, amount);
    return {true, std::nullopt};
  }

  auto candidate = candidates_.find(name);
  if (candidate == candidates_.end()) {
    int64_t inherited = 0;
    if (candidates_.size() >= max_candidates_) {
      const auto least = Least(&candidates_);
      inherited = least->second;
      candidates_.erase(least);
    }
    candidate = candidates_.emplace(name, inherited).first;
  }
  candidate->second += amount;

  const auto least = Least(&shown_);
  if (candidate->second <= least->second) return {false, std::nullopt};
  Change change{true, least->first};
  const int64_t count = candidate->second;
  candidates_.erase(candidate);
  candidates_.emplace(least->first, least->second);
  shown_.erase(least);
  shown_.emplace(name, count);
  return change;
}

}  // namespace lorad
