#include "scheduler/order/fcfs.h"

#include <algorithm>
#include <numeric>

namespace lorad {

std::vector<size_t> FirstComeFirstServed::Arrange(absl::Span<const OrderKey> waiting, bool latest_first) const {
  std::vector<size_t> places(waiting.size());
  std::iota(places.begin(), places.end(), 0);
  if (!latest_first) return places;
  for (auto begin = places.begin(); begin != places.end();) {
    const OrderKey& first = waiting[*begin];
    const auto end = std::find_if(begin, places.end(), [&](size_t place) {
      return waiting[place].priority != first.priority || waiting[place].begun != first.begun;
    });
    if (!first.begun) std::reverse(begin, end);
    begin = end;
  }
  return places;
}

}  // namespace lorad
