#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "scheduler/command.h"
#include "scheduler/state.h"

namespace lorad {

// The life of adapters on the engine thread: what names mean, and what commands and loaders do to them.

void ApplyLoad(LoadCommand command, SchedulerState* state);
void ApplyUnload(UnloadCommand command, SchedulerState* state);
void ApplyPin(PinCommand command, SchedulerState* state);
void ApplyLoaderEvent(LoaderEvent event, SchedulerState* state);

// The version that a new request for `name` runs on; an unknown name begins to load from `folder`, if it has one.
// Errors: NotFound; ResourceExhausted: too many names, or the loader's queue is full.
absl::StatusOr<AdapterVersion*> VersionFor(const std::string& name, const std::string& folder, SchedulerState* state);

// A load or a packing of `version` failed: its waiting requests end with `status`, and so do the replies. The name is
// forgotten unless the version was good once.
void FailVersion(const absl::Status& status, AdapterVersion* version, SchedulerState* state);

// A replacing version that can serve takes its name over; the one before drains.
void SwitchIfReplacing(AdapterVersion* version, SchedulerState* state);

// Every open reply gets `status`: the engine ends.
void AnswerOpenCommands(const absl::Status& status, SchedulerState* state);

}  // namespace lorad
