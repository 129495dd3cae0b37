#pragma once

#include "server/config.h"
#include "server/log.h"
#include "server/signals.h"

namespace lorad {

// Runs the daemon until a signal has drained it. Returns the exit code: 0, or 1 with the reason logged.
int RunDaemon(const ServerConfig& config, Signals* signals, Log* log);

}  // namespace lorad
