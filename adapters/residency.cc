#include "adapters/residency.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

namespace lorad {
namespace {

// Idle adapters in the order in which those behind `position` in the queue may lose them.
class Evictable final {
 public:
  explicit Evictable(const ResidencyInput& input) {
    for (size_t i = 0; i < input.wanted.size(); ++i) position_[input.wanted[i].id] = i;
    for (const IdleAdapter& idle : input.idle) {
      if (!position_.contains(idle.id)) order_.push_back(idle);
    }
    std::vector<IdleAdapter> wanted;
    for (const IdleAdapter& idle : input.idle) {
      if (position_.contains(idle.id)) wanted.push_back(idle);
    }
    std::sort(wanted.begin(), wanted.end(),
              [this](const IdleAdapter& a, const IdleAdapter& b) { return position_[a.id] > position_[b.id]; });
    order_.insert(order_.end(), wanted.begin(), wanted.end());
  }

  // Pages that whoever waits at `position` may take.
  int64_t PagesFor(size_t position) const {
    int64_t pages = 0;
    for (size_t i = next_; i < order_.size() && MayTake(position, order_[i]); ++i) pages += order_[i].pages;
    return pages;
  }

  IdleAdapter Take() { return order_[next_++]; }

 private:
  bool MayTake(size_t position, const IdleAdapter& idle) const {
    const auto wanted = position_.find(idle.id);
    return wanted == position_.end() || wanted->second > position;
  }

  std::unordered_map<AdapterId, size_t> position_;
  std::vector<IdleAdapter> order_;
  size_t next_ = 0;
};

}  // namespace

ResidencyPlan PlanResidency(const ResidencyInput& input) {
  ResidencyPlan plan;
  Evictable evictable(input);
  std::unordered_set<AdapterId> evicted;
  int64_t free_pages = input.free_pages;
  int64_t staged = 0;
  for (const WantedAdapter& wanted : input.wanted) {
    staged += wanted.phase == WantedPhase::kReading || wanted.phase == WantedPhase::kStaged;
  }

  for (size_t i = 0; i < input.wanted.size(); ++i) {
    const WantedAdapter& wanted = input.wanted[i];
    if (wanted.phase == WantedPhase::kPacking) continue;
    if (wanted.phase == WantedPhase::kResident) continue;
    const bool fits = wanted.pages <= free_pages + evictable.PagesFor(i);
    if (wanted.phase == WantedPhase::kStaged && fits) {
      while (free_pages < wanted.pages) {
        const IdleAdapter taken = evictable.Take();
        free_pages += taken.pages;
        evicted.insert(taken.id);
        plan.evict.push_back(taken.id);
      }
      plan.pack.push_back(wanted.id);
    } else if (wanted.phase == WantedPhase::kOnDisk && fits && staged < input.max_staged) {
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
