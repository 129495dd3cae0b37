#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "scheduler/state.h"

namespace lorad {

// Answers to adapter commands, each exactly once. They go to the completions thread when the snapshot shows what they
// tell.
void AnswerAdapter(AdapterReply reply, absl::StatusOr<AdapterInfo> answer, SchedulerState* state);
void AnswerStatus(StatusReply reply, absl::Status answer, SchedulerState* state);

// All that wait at `version`.
void AnswerLoads(const absl::StatusOr<AdapterInfo>& answer, AdapterVersion* version, SchedulerState* state);
void AnswerPins(const absl::StatusOr<AdapterInfo>& answer, AdapterVersion* version, SchedulerState* state);
void AnswerUnloads(const absl::Status& answer, AdapterVersion* version, SchedulerState* state);

}  // namespace lorad
