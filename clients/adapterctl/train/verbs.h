#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "clients/adapterctl/session.h"
#include "clients/adapterctl/verbs.h"

namespace lorad::adapterctl {

inline constexpr char kJobsAreListed[] = "adapterctl train list shows the jobs";  // where an id is unknown

// The verbs below "train".
Verb AddTrainSubmit(CLI::App& train);
Verb AddTrainList(CLI::App& train);
Verb AddTrainShow(CLI::App& train);
Verb AddTrainWatch(CLI::App& train);
Verb AddTrainPause(CLI::App& train);
Verb AddTrainResume(CLI::App& train);
Verb AddTrainCancel(CLI::App& train);
Verb AddTrainDelete(CLI::App& train);
Verb AddTrainPreview(CLI::App& train);

// Shows a job's events until it ends: a line of progress and the loss curve on a terminal, else a line an event; with
// --output=json an object a line. The exit code is kFailed unless the job succeeded.
int WatchJob(Session& session, const std::string& id, uint64_t after_sequence);

}  // namespace lorad::adapterctl
