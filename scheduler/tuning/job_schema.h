#pragma once

#include "absl/status/status.h"
#include "scheduler/tuning/sqlite.h"

namespace lorad {

// Brings the file of jobs, events, revisions and aliases to today's schema, an empty one too. Errors:
// FailedPrecondition, a newer lorad wrote it; the database's.
absl::Status MigrateJobs(SqliteDatabase* database);

}  // namespace lorad
