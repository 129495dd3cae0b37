#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"

namespace lorad {

// What training holds of the memory that serving uses too, and when it may ask for more after it was short.
//
// Threads  the worker's, but wanted_back: any.
class TrainingMemory final {
 public:
  // Holds so many bytes in all, or says why not (ResourceExhausted: not now); fewer always works. `give_back` is called
  // when serving cannot do without them.
  using HoldFn = std::function<absl::Status(int64_t bytes, std::function<void()> give_back)>;
  // `hold` may be empty: nobody counts. `wanted`: serving cannot do without what is held; from any thread.
  TrainingMemory(HoldFn hold, std::function<void()> wanted) : hold_(std::move(hold)), wanted_(std::move(wanted)) {}

  absl::Status Hold(int64_t bytes);
  // More may be asked for; not for a while after it was short or wanted back, longer each time that it stays short.
  bool may_grow() const { return std::chrono::steady_clock::now() >= no_growth_before_; }
  void WasShort();

  bool wanted_back() const { return wanted_back_; }
  // Once, then false until it is wanted again.
  bool TakeWantedBack();

 private:
  const HoldFn hold_;
  const std::function<void()> wanted_;
  std::atomic<bool> wanted_back_ = false;
  int64_t held_bytes_ = 0;
  std::chrono::steady_clock::time_point no_growth_before_ = {};
  std::chrono::seconds wait_{1};
};

}  // namespace lorad
