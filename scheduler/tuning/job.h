#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace lorad {

// Values are stored and are those of the proto: never changed.
enum class JobState : int32_t {
  kQueued = 2,
  kRunning = 3,
  kPaused = 4,
  kSucceeded = 5,
  kFailed = 6,
  kCancelled = 7,
};

inline bool IsFinished(JobState state) { return state >= JobState::kSucceeded; }

// One fine-tuning job, as it is stored. Its data were validated and copied before it was.
struct Job {
  std::string id;
  std::string name;             // the adapter's
  std::string spec;             // FineTuneSpec as the front end wrote it; opaque here
  std::string idempotency_key;  // "" = none
  std::string data_digest;
  int32_t priority = 0;
  JobState state = JobState::kQueued;
  std::string reason;
  int64_t step = 0;
  int64_t total_steps = 0;
  double last_loss = 0;
  std::string revision;  // "" until something was published
  int64_t trained_tokens = 0;
  int64_t created_us = 0;   // since 1970
  int64_t finished_us = 0;  // 0 = not yet
};

// The loss on the examples that are kept from training, after a step.
struct JobEvaluation {
  int64_t step = 0;
  double loss = 0;
};

struct JobEvent {
  std::string job_id;
  int64_t sequence = 0;  // from 1 in each job; the store's
  JobState state = JobState::kQueued;
  int64_t step = 0;
  std::optional<double> loss;      // cross entropy
  std::optional<double> aux_loss;  // the routers', which is added to it
  std::optional<double> grad_norm;
  std::optional<double> learning_rate;
  std::optional<double> tokens_per_second;
  std::optional<double> eval_loss;
  std::string message;
  int64_t at_us = 0;
};

}  // namespace lorad
