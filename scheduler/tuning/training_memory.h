#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "scheduler/tuning/running_job.h"

namespace lorad {

// What training holds of the memory that serving uses too, for jobs and for runs, and when it may ask for more after it
// was short. Jobs give theirs back when serving cannot do without; runs keep theirs until they are deleted.
//
// Threads  the worker's, but wanted_back and Update: any.
class TrainingMemory final {
 public:
  // Holds so many bytes in all, or says why not (ResourceExhausted: not now; InvalidArgument: never so many); fewer
  // always works. `give_back` is called
  // when serving cannot do without those that are not kept.
  using HoldFn = std::function<absl::Status(int64_t bytes, int64_t kept_bytes, std::function<void()> give_back)>;
  struct Parts {
    HoldFn hold;                   // may be empty: nobody counts
    std::function<void()> wanted;  // serving cannot do without what is held; from any thread
    int64_t activation_bytes = 0;  // held while there is a job or a run, or what the largest batch of a job takes
    // Held for batches of runs beside those of jobs; 0: they share activation_bytes.
    int64_t run_batch_bytes = 0;
    std::function<int64_t()> runs;  // bytes of the runs' states; empty: there are none
  };
  explicit TrainingMemory(Parts parts) : parts_(std::move(parts)) {}

  // Of all jobs, and of their batches the largest. Errors: of Parts::hold, but ResourceExhausted for what never fits
  // beside others, and may alone.
  absl::Status Hold(const JobBytes& jobs);
  absl::Status Hold(int64_t state_bytes) { return Hold(JobBytes{state_bytes, 0}); }
  absl::Status Update();  // runs came or went. Errors: as Hold
  // More may be asked for; not for a while after it was short or wanted back, longer each time that it stays short.
  bool may_grow() const { return std::chrono::steady_clock::now() >= no_growth_before_; }
  void WasShort();

  bool wanted_back() const { return wanted_back_; }
  // Once, then false until it is wanted again.
  bool TakeWantedBack();

 private:
  // `others_hold`: jobs hold something beside what is asked for.
  absl::Status HoldAll(bool others_hold);

  const Parts parts_;
  std::atomic<bool> wanted_back_ = false;
  std::mutex mutex_;  // of what follows, to the next blank line
  JobBytes jobs_;
  int64_t held_bytes_ = 0;
  int64_t kept_bytes_ = 0;

  std::chrono::steady_clock::time_point no_growth_before_ = {};
  std::chrono::seconds wait_{1};
};

}  // namespace lorad
