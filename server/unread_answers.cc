#include "server/unread_answers.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

namespace lorad {
namespace {

constexpr std::chrono::seconds kLookEvery{1};

}  // namespace

std::vector<size_t> ReadersToGiveUp(absl::Span<const UnreadAnswer> answers, const UnreadLimits& limits) {
  std::vector<size_t> longest_idle(answers.size());
  std::iota(longest_idle.begin(), longest_idle.end(), size_t{0});
  std::stable_sort(longest_idle.begin(), longest_idle.end(),
                   [&](size_t x, size_t y) { return answers[x].idle_us > answers[y].idle_us; });
  int64_t total_bytes = 0;
  for (const UnreadAnswer& answer : answers) total_bytes += answer.bytes;
  std::vector<size_t> given_up;
  for (const size_t i : longest_idle) {
    const bool too_long = answers[i].idle_us >= limits.idle_us;
    const bool too_much = total_bytes > limits.total_bytes && answers[i].idle_us >= limits.patience_us;
    if (!too_long && !too_much) break;
    total_bytes -= answers[i].bytes;
    given_up.push_back(i);
  }
  std::sort(given_up.begin(), given_up.end());
  return given_up;
}

void UnreadAnswers::Add(std::function<std::optional<UnreadAnswer>()> look, std::function<void()> give_up) {
  entries_.push_back({std::move(look), std::move(give_up)});
  LookLater();
}

void UnreadAnswers::LookLater() {
  if (entries_.empty() || std::exchange(will_look_, true)) return;
  pump_->PostAfter(kLookEvery, [this] { Look(); });
}

void UnreadAnswers::Look() {
  will_look_ = false;
  std::vector<UnreadAnswer> answers;
  std::erase_if(entries_, [&](const Entry& entry) {
    const std::optional<UnreadAnswer> answer = entry.look();
    if (answer.has_value()) answers.push_back(*answer);
    return !answer.has_value();
  });
  for (const size_t i : ReadersToGiveUp(answers, limits_)) entries_[i].give_up();
  LookLater();
}

}  // namespace lorad
