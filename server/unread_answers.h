#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "server/stream_pump.h"

namespace lorad {

// An answer that is made and not yet read.
struct UnreadAnswer {
  int64_t bytes = 0;
  int64_t idle_us = 0;  // since its reader last took a message
};

struct UnreadLimits {
  int64_t idle_us = 60'000'000;             // a reader that takes nothing for so long is given up
  int64_t total_bytes = int64_t{64} << 20;  // of all answers; above it readers are given up sooner, …
  int64_t patience_us = 1'000'000;          // … but none that took a message this recently
};

// Which of `answers` to give up, by index, ascending: those idle too long, and, while the rest is too large together,
// those idle longest.
std::vector<size_t> ReadersToGiveUp(absl::Span<const UnreadAnswer> answers, const UnreadLimits& limits);

// Keeps made answers for readers that are slow, and bounds what that costs. It looks at them once a second.
//
// Threads  the pump's alone. It must outlive the pump's thread.
class UnreadAnswers final {
 public:
  explicit UnreadAnswers(StreamPump* pump, UnreadLimits limits = {}) : pump_(pump), limits_(limits) {}

  // `look` says what is left, or nothing once there is nothing to wait for; `give_up` ends it.
  void Add(std::function<std::optional<UnreadAnswer>()> look, std::function<void()> give_up);

 private:
  struct Entry {
    std::function<std::optional<UnreadAnswer>()> look;
    std::function<void()> give_up;
  };
  void LookLater();
  void Look();

  StreamPump* const pump_;
  const UnreadLimits limits_;
  std::vector<Entry> entries_;
  bool will_look_ = false;
};

}  // namespace lorad
