#include "scheduler/tuning/training_memory.h"

#include <algorithm>
#include <utility>

#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr std::chrono::seconds kWait(1), kMaxWait(30);

}  // namespace

absl::Status TrainingMemory::Hold(int64_t bytes) {
  if (!hold_ || bytes == held_bytes_) return absl::OkStatus();
  RETURN_IF_ERROR(hold_(bytes, [this] {
    wanted_back_ = true;
    wanted_();
  }));
  if (bytes > held_bytes_) wait_ = kWait;
  held_bytes_ = bytes;
  return absl::OkStatus();
}

void TrainingMemory::WasShort() {
  no_growth_before_ = std::chrono::steady_clock::now() + wait_;
  wait_ = std::min(2 * wait_, kMaxWait);  // each try is an event
}

bool TrainingMemory::TakeWantedBack() {
  if (!wanted_back_.exchange(false)) return false;
  no_growth_before_ = std::chrono::steady_clock::now() + kWait;
  return true;
}

}  // namespace lorad
