#include "adapters/residency.h"

#include <algorithm>
#include <limits>
#include <unordered_map>

namespace lorad {
namespace {

// Idle adapters in the order in which they go: those that nobody wants, oldest use first, then the wanted ones, whoever
// waits longest last. Whoever waits at a position may take those that nobody wants or that are wanted behind it.
class Evictable final {
 public:
  explicit Evictable(const ResidencyInput& input) {
    constexpr size_t kNobody = std::numeric_limits<size_t>::max();
    std::unordered_map<AdapterId, size_t> position;
    for (size_t i = 0; i < input.wanted.size(); ++i) position[input.wanted[i].id] = i;
    for (const IdleAdapter& idle : input.idle) {
      const auto found = position.find(idle.id);
      order_.push_back({.idle = idle, .wanted_at = found == position.end() ? kNobody : found->second});
    }
    std::stable_sort(order_.begin(), order_.end(),
                     [](const Candidate& a, const Candidate& b) { return a.wanted_at > b.wanted_at; });
    pages_before_.push_back(0);
    for (const Candidate& candidate : order_) pages_before_.push_back(pages_before_.back() + candidate.idle.pages);
  }

  int64_t PagesFor(size_t position) const {
    const auto end = std::partition_point(order_.begin() + static_cast<int64_t>(next_), order_.end(),
                                          [position](const Candidate& c) { return c.wanted_at > position; });
    return pages_before_[static_cast<size_t>(end - order_.begin())] - pages_before_[next_];
  }

  IdleAdapter Take() { return order_[next_++].idle; }

 private:
  struct Candidate {
    IdleAdapter idle;
    size_t wanted_at;
  };
  std::vector<Candidate> order_;
  std::vector<int64_t> pages_before_;  // [candidates + 1]
  size_t next_ = 0;
};

}  // namespace

ResidencyPlan PlanResidency(const ResidencyInput& input) {
  ResidencyPlan plan;
  Evictable evictable(input);
  int64_t free_pages = input.free_pages;
  int64_t staged = 0;
  int64_t parked = 0;  // staged, and no room for them now
  for (const WantedAdapter& wanted : input.wanted) {
    staged += wanted.phase == WantedPhase::kReading || wanted.phase == WantedPhase::kStaged;
  }

  int64_t ahead = 0;
  for (size_t i = 0; i < input.wanted.size(); ++i) {
    const WantedAdapter& wanted = input.wanted[i];
    const bool soon = wanted.commanded || !wanted.overtakable || ahead < input.max_ahead;
    const bool placed = wanted.phase == WantedPhase::kPacking || wanted.phase == WantedPhase::kResident;
    const bool fits = placed || wanted.pages <= free_pages + evictable.PagesFor(i);
    ahead += fits && wanted.ahead && !wanted.commanded;
    if (placed) {
      if (soon && wanted.phase == WantedPhase::kResident) plan.keep.push_back(wanted.id);
      continue;
    }
    if (!soon) {
      const bool staged_early = wanted.phase == WantedPhase::kStaged;
      staged -= staged_early;
      parked += staged_early;
      continue;
    }
    const bool warm = wanted.phase == WantedPhase::kOnDisk && wanted.warm;
    if ((wanted.phase == WantedPhase::kStaged || warm) && fits) {
      while (free_pages < wanted.pages) {
        const IdleAdapter taken = evictable.Take();
        free_pages += taken.pages;
        plan.evict.push_back(taken.id);
      }
      plan.pack.push_back(wanted.id);
    } else if (wanted.phase == WantedPhase::kStaged) {
      --staged;
      ++parked;
    } else if (wanted.phase == WantedPhase::kOnDisk && !warm && fits && staged < input.max_staged) {
      // Of unknown size: it may join the parked ones.
      if (wanted.pages == 0 && parked >= input.max_parked) continue;
      plan.read.push_back(wanted.id);
      ++staged;
    }
    if (!fits && !wanted.overtakable) break;
    // Being packed, or a claim on what is free while it is read.
    if (fits) free_pages -= std::min(free_pages, wanted.pages);
  }
  return plan;
}

}  // namespace lorad
