#include "scheduler/tuning/training_memory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr std::chrono::seconds kWait(1), kMaxWait(30);

}  // namespace

absl::Status TrainingMemory::Hold(const JobBytes& jobs) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const JobBytes before = std::exchange(jobs_, jobs);
  const absl::Status status = HoldAll(/*others_hold=*/before.state_bytes > 0);
  if (!status.ok()) {
    jobs_ = before;
  } else if (jobs.state_bytes > before.state_bytes) {
    wait_ = kWait;
  }
  return status;
}

absl::Status TrainingMemory::Update() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return HoldAll(/*others_hold=*/jobs_.state_bytes > 0);
}

absl::Status TrainingMemory::HoldAll(bool others_hold) {
  if (!parts_.hold) return absl::OkStatus();
  const int64_t run_bytes = parts_.runs ? parts_.runs() : 0;
  const bool shared = parts_.run_batch_bytes == 0;
  const int64_t run_batch_bytes = shared ? parts_.activation_bytes : parts_.run_batch_bytes;
  const int64_t kept = run_bytes == 0 ? 0 : run_bytes + run_batch_bytes;
  const int64_t job_batch_bytes = std::max(parts_.activation_bytes, jobs_.batch_bytes);
  int64_t bytes = kept;
  if (jobs_.state_bytes > 0) bytes += jobs_.state_bytes + (shared && kept > 0 ? 0 : job_batch_bytes);
  if (bytes == held_bytes_ && kept == kept_bytes_) return absl::OkStatus();
  const absl::Status status = parts_.hold(bytes, kept, [this] {
    wanted_back_ = true;
    parts_.wanted();
  });
  // What would fit alone, as whoever asks has made sure, fits when others have ended.
  if (absl::IsInvalidArgument(status) && (kept > 0 ? jobs_.state_bytes > 0 : others_hold)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "memory for training: bytes of jobs: ", bytes - kept, "; of runs: ", kept,
        "; fits alone but not beside those; retry when a job has ended or is paused, or a run is deleted"));
  }
  RETURN_IF_ERROR(status);
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
