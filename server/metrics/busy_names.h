#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>

namespace lorad {

// Which names deserve a series of their own: the busiest `shown` of any number of them, in bounded memory.
//
// A candidate takes the place of the least busy shown name once it has counted more than that one did. Counts of
// candidates are estimates (Space-Saving: Metwally, Agrawal, El Abbadi 2005), never too low, and those of shown names
// are exact since they are shown.
class BusyNames final {
 public:
  BusyNames(size_t shown, size_t candidates) : max_shown_(shown), max_candidates_(candidates) {}

  struct Change {
    bool shown = false;                  // the name has a series
    std::optional<std::string> retired;  // this one lost its series to it
  };
  Change Count(const std::string& name, int64_t amount);

  size_t tracked() const { return shown_.size() + candidates_.size(); }

 private:
  using Counts = std::unordered_map<std::string, int64_t>;
  static Counts::iterator Least(Counts* counts);

  const size_t max_shown_;
  const size_t max_candidates_;
  Counts shown_;
  Counts candidates_;
};

}  // namespace lorad
