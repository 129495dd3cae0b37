#pragma once

#include "absl/status/status.h"
#include "server/config.h"
#include "server/log.h"

namespace lorad {

class Engine;

// Loads the adapters of --adapter into a running engine, many at once; returns when each was answered. Errors: of the
// first that failed, by its name.
absl::Status LoadAdaptersOfFlags(const ServerConfig& config, Engine* engine, Log* log);

}  // namespace lorad
