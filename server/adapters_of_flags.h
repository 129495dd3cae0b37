#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config.h"
#include "server/log.h"

namespace lorad {

class Engine;

// The adapters of --adapter with their real paths. Reads none of them: to be called before the model is read, which may
// take minutes. Errors: as CheckAdapterName and ResolveAdapterPath, by the flag.
absl::StatusOr<std::vector<AdapterFlag>> ResolveAdapterFlags(const ServerConfig& config);

// Loads them into a running engine, many at once; returns when each was answered. Errors: of the first that failed, by
// the flag.
absl::Status LoadAdaptersOfFlags(const std::vector<AdapterFlag>& adapters, Engine* engine, Log* log);

}  // namespace lorad
