#include "scheduler/tuning/training_memory.h"

#include <algorithm>
#include <utility>

#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr std::chrono::seconds kWait(1), kMaxWait(30);

}  // namespace

absl::Status TrainingMemory::Hold(int64_t job_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const int64_t before = std::exchange(job_bytes_, job_bytes);
  const absl::Status status = HoldAll();
  if (!status.ok()) {
    job_bytes_ = before;
  } else if (job_bytes > before) {
    wait_ = kWait;
  }
  return status;
}

absl::Status TrainingMemory::Update() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return HoldAll();
}

absl::Status TrainingMemory::HoldAll() {
  if (!parts_.hold) return absl::OkStatus();
  const int64_t run_bytes = parts_.runs ? parts_.runs() : 0;
  const int64_t kept = run_bytes == 0 ? 0 : run_bytes + parts_.activation_bytes;
  const int64_t bytes = job_bytes_ + run_bytes + (job_bytes_ + run_bytes == 0 ? 0 : parts_.activation_bytes);
  if (bytes == held_bytes_ && kept == kept_bytes_) return absl::OkStatus();
  RETURN_IF_ERROR(parts_.hold(bytes, kept, [this] {
    wanted_back_ = true;
    parts_.wanted();
  }));
  held_bytes_ = bytes;
  kept_bytes_ = kept;
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
