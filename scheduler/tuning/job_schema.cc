#include "scheduler/tuning/job_schema.h"

#include <cstdint>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

// Statement i brings schema version i to i + 1. Only ever appended to.
constexpr const char* kMigrations[] = {
    R"(CREATE TABLE jobs (
         number INTEGER PRIMARY KEY AUTOINCREMENT,
         id TEXT NOT NULL UNIQUE,
         name TEXT NOT NULL,
         spec BLOB NOT NULL,
         idempotency_key TEXT NOT NULL,
         data_digest TEXT NOT NULL,
         priority INTEGER NOT NULL,
         state INTEGER NOT NULL,
         reason TEXT NOT NULL,
         step INTEGER NOT NULL,
         total_steps INTEGER NOT NULL,
         last_loss REAL NOT NULL,
         revision TEXT NOT NULL,
         trained_tokens INTEGER NOT NULL,
         created_us INTEGER NOT NULL,
         finished_us INTEGER NOT NULL);
       CREATE UNIQUE INDEX jobs_key ON jobs (idempotency_key) WHERE idempotency_key <> '';
       CREATE INDEX jobs_state ON jobs (state, priority DESC, number);
       CREATE TABLE events (
         job_id TEXT NOT NULL,
         sequence INTEGER NOT NULL,
         state INTEGER NOT NULL,
         step INTEGER NOT NULL,
         loss REAL, grad_norm REAL, learning_rate REAL, tokens_per_second REAL,
         message TEXT NOT NULL,
         at_us INTEGER NOT NULL,
         PRIMARY KEY (job_id, sequence)) WITHOUT ROWID;)",
    "ALTER TABLE events ADD COLUMN eval_loss REAL;",
    // For scheduler/tuning/revisions.h.
    R"(CREATE TABLE revisions (
         number INTEGER PRIMARY KEY AUTOINCREMENT,
         name TEXT NOT NULL,
         revision TEXT NOT NULL UNIQUE,
         created_us INTEGER NOT NULL);
       CREATE INDEX revisions_name ON revisions (name, number);
       CREATE TABLE aliases (
         name TEXT PRIMARY KEY,
         revision TEXT NOT NULL) WITHOUT ROWID;)",
    "ALTER TABLE revisions ADD COLUMN eval_loss REAL;",
    "ALTER TABLE events ADD COLUMN aux_loss REAL;",
};
constexpr int64_t kSchemaVersion = std::size(kMigrations);

}  // namespace

absl::Status MigrateJobs(SqliteDatabase* database) {
  ASSIGN_OR_RETURN(int64_t version, database->QueryInt("PRAGMA user_version"));
  if (version > kSchemaVersion) {
    return absl::FailedPreconditionError(absl::StrCat("job store: schema version: ", version,
                                                      "; limit: ", kSchemaVersion, "; written by a newer lorad"));
  }
  for (; version < kSchemaVersion; ++version) {
    SqliteTransaction transaction(database);
    RETURN_IF_ERROR(transaction.Begin());
    RETURN_IF_ERROR(database->Execute(kMigrations[version]));
    RETURN_IF_ERROR(database->Execute(absl::StrCat("PRAGMA user_version = ", version + 1).c_str()));
    RETURN_IF_ERROR(transaction.Commit());
  }
  return absl::OkStatus();
}

}  // namespace lorad
