#include "scheduler/order/fair_share.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <unordered_map>

namespace lorad {
namespace {

// The waiting of one account and one priority.
struct Line {
  std::vector<size_t> places;
  size_t next = 0;
  double served = 0.0;
};

// Arranges the places [begin, end), all of one priority, and adds them to `arranged`.
void ArrangeLevel(absl::Span<const OrderKey> waiting, size_t begin, size_t end, bool latest_first,
                  std::unordered_map<uint64_t, double>* served, std::vector<size_t>* arranged) {
  std::unordered_map<uint64_t, Line> lines;
  for (size_t place = begin; place < end; ++place) lines[waiting[place].account].places.push_back(place);

  // The least served first; among equals, whose next one came first.
  using Turn = std::tuple<double, int64_t, uint64_t, Line*>;  // served, arrival, number
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns;
  const auto queue_next = [&](Line* line) {
    const OrderKey& key = waiting[line->places[line->next]];
    turns.emplace(line->served, key.arrival_us, key.number, line);
  };
  for (auto& [account, line] : lines) {
    if (latest_first) {
      const auto fresh = std::find_if(line.places.begin(), line.places.end(),
                                      [&waiting](size_t place) { return !waiting[place].begun; });
      std::reverse(fresh, line.places.end());
    }
    line.served = served->try_emplace(account, waiting[line.places.front()].served).first->second;
    queue_next(&line);
  }
  while (!turns.empty()) {
    Line* const line = std::get<Line*>(turns.top());
    turns.pop();
    const size_t place = line->places[line->next++];
    arranged->push_back(place);
    line->served += waiting[place].cost;
    (*served)[waiting[place].account] = line->served;
    if (line->next < line->places.size()) queue_next(line);
  }
}

}  // namespace

std::vector<size_t> FairShare::Arrange(absl::Span<const OrderKey> waiting, bool latest_first) const {
  std::vector<size_t> arranged;
  arranged.reserve(waiting.size());
  std::unordered_map<uint64_t, double> served;  // with what those of lower priority numbers add
  for (size_t begin = 0; begin < waiting.size();) {
    size_t end = begin;
    while (end < waiting.size() && waiting[end].priority == waiting[begin].priority) ++end;
    ArrangeLevel(waiting, begin, end, latest_first, &served, &arranged);
    begin = end;
  }
  return arranged;
}

}  // namespace lorad
