#include "scheduler/tuning/job_store.h"

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/job_schema.h"
#include "scheduler/tuning/sqlite.h"

namespace lorad {
namespace {

constexpr const char* kPragmas =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;";
#define LORAD_JOB_COLUMNS                                                                                           \
  "id, name, spec, idempotency_key, data_digest, priority, state, reason, step, total_steps, last_loss, revision, " \
  "trained_tokens, created_us, finished_us"

Job JobOf(const SqliteStatement& row) {
  Job job;
  job.id = row.Text(0);
  job.name = row.Text(1);
  job.spec = row.Text(2);
  job.idempotency_key = row.Text(3);
  job.data_digest = row.Text(4);
  job.priority = static_cast<int32_t>(row.Int(5));
  job.state = static_cast<JobState>(row.Int(6));
  job.reason = row.Text(7);
  job.step = row.Int(8);
  job.total_steps = row.Int(9);
  job.last_loss = row.Real(10);
  job.revision = row.Text(11);
  job.trained_tokens = row.Int(12);
  job.created_us = row.Int(13);
  job.finished_us = row.Int(14);
  return job;
}

JobEvent EventOf(const std::string& job_id, const SqliteStatement& row) {
  JobEvent event;
  event.job_id = job_id;
  event.sequence = row.Int(0);
  event.state = static_cast<JobState>(row.Int(1));
  event.step = row.Int(2);
  event.loss = row.OptionalReal(3);
  event.grad_norm = row.OptionalReal(4);
  event.learning_rate = row.OptionalReal(5);
  event.tokens_per_second = row.OptionalReal(6);
  event.message = row.Text(7);
  event.at_us = row.Int(8);
  event.eval_loss = row.OptionalReal(9);
  event.aux_loss = row.OptionalReal(10);
  return event;
}

absl::StatusOr<std::optional<Job>> OneJob(SqliteStatement& statement) {
  ASSIGN_OR_RETURN(const bool row, statement.Step());
  return row ? std::optional<Job>(JobOf(statement)) : std::nullopt;
}

absl::Status AppendEvent(SqliteDatabase& database, JobEvent* event) {
  SqliteStatement last(database, "SELECT COALESCE(MAX(sequence), 0) FROM events WHERE job_id = ?");
  last.Bind(event->job_id);
  RETURN_IF_ERROR(last.Run());
  event->sequence = last.Int(0) + 1;
  SqliteStatement insert(database,
                         "INSERT INTO events (job_id, sequence, state, step, loss, grad_norm, learning_rate, "
                         "tokens_per_second, message, at_us, eval_loss, aux_loss) "
                         "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  insert.Bind(event->job_id)
      .Bind(event->sequence)
      .Bind(static_cast<int64_t>(event->state))
      .Bind(event->step)
      .Bind(event->loss)
      .Bind(event->grad_norm)
      .Bind(event->learning_rate)
      .Bind(event->tokens_per_second)
      .Bind(event->message)
      .Bind(event->at_us)
      .Bind(event->eval_loss)
      .Bind(event->aux_loss);
  return insert.Run();
}

absl::Status NoSuchJob(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("job: ", id, "; limit: a known id; list shows them"));
}

}  // namespace

struct JobStore::Impl {
  explicit Impl(SqliteDatabase opened) : database(std::move(opened)) {}
  mutable std::mutex mutex;
  SqliteDatabase database;
};

JobStore::JobStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
JobStore::~JobStore() = default;

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(const std::string& path) {
  ASSIGN_OR_RETURN(SqliteDatabase database, SqliteDatabase::Open(path));
  RETURN_IF_ERROR(database.Execute(kPragmas));
  RETURN_IF_ERROR(MigrateJobs(&database));
  return std::unique_ptr<JobStore>(new JobStore(std::make_unique<Impl>(std::move(database))));
}

absl::Status JobStore::Insert(const Job& job, JobEvent* event) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteTransaction transaction(&impl_->database);
  RETURN_IF_ERROR(transaction.Begin());
  SqliteStatement insert(
      impl_->database, "INSERT INTO jobs (" LORAD_JOB_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
  insert.Bind(job.id)
      .Bind(job.name)
      .BindBlob(job.spec)
      .Bind(job.idempotency_key)
      .Bind(job.data_digest)
      .Bind(int64_t{job.priority})
      .Bind(static_cast<int64_t>(job.state))
      .Bind(job.reason)
      .Bind(job.step)
      .Bind(job.total_steps)
      .Bind(job.last_loss)
      .Bind(job.revision)
      .Bind(job.trained_tokens)
      .Bind(job.created_us)
      .Bind(job.finished_us);
  RETURN_IF_ERROR(insert.Run());
  RETURN_IF_ERROR(AppendEvent(impl_->database, event));
  return transaction.Commit();
}

absl::Status JobStore::Update(const Job& job, JobEvent* event) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteTransaction transaction(&impl_->database);
  RETURN_IF_ERROR(transaction.Begin());
  SqliteStatement update(impl_->database,
                         "UPDATE jobs SET state = ?, reason = ?, step = ?, last_loss = ?, revision = ?, "
                         "trained_tokens = ?, finished_us = ? WHERE id = ?");
  update.Bind(static_cast<int64_t>(job.state))
      .Bind(job.reason)
      .Bind(job.step)
      .Bind(job.last_loss)
      .Bind(job.revision)
      .Bind(job.trained_tokens)
      .Bind(job.finished_us)
      .Bind(job.id);
  RETURN_IF_ERROR(update.Run());
  if (sqlite3_changes(impl_->database.handle()) == 0) return NoSuchJob(job.id);
  RETURN_IF_ERROR(AppendEvent(impl_->database, event));
  return transaction.Commit();
}

absl::Status JobStore::Delete(const std::string& id) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteTransaction transaction(&impl_->database);
  RETURN_IF_ERROR(transaction.Begin());
  RETURN_IF_ERROR(SqliteStatement(impl_->database, "DELETE FROM events WHERE job_id = ?").Bind(id).Run());
  RETURN_IF_ERROR(SqliteStatement(impl_->database, "DELETE FROM jobs WHERE id = ?").Bind(id).Run());
  if (sqlite3_changes(impl_->database.handle()) == 0) return NoSuchJob(id);
  return transaction.Commit();
}

absl::StatusOr<Job> JobStore::Get(const std::string& id) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(impl_->database, "SELECT " LORAD_JOB_COLUMNS " FROM jobs WHERE id = ?");
  query.Bind(id);
  ASSIGN_OR_RETURN(std::optional<Job> job, OneJob(query));
  if (!job.has_value()) return NoSuchJob(id);
  return *std::move(job);
}

absl::StatusOr<std::optional<Job>> JobStore::FindByKey(const std::string& idempotency_key) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(impl_->database,
                        "SELECT " LORAD_JOB_COLUMNS " FROM jobs WHERE idempotency_key = ? AND idempotency_key <> ''");
  query.Bind(idempotency_key);
  return OneJob(query);
}

absl::StatusOr<std::vector<Job>> JobStore::List(const std::string& after_id, int64_t limit) const {
  if (!after_id.empty() && absl::IsNotFound(Get(after_id).status())) {
    return absl::InvalidArgumentError(absl::StrCat("page_token: ", after_id,
                                                   "; limit: one whose job is still there; begin "
                                                   "with the first page"));
  }
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(impl_->database, "SELECT " LORAD_JOB_COLUMNS
                                         " FROM jobs WHERE number < COALESCE((SELECT number FROM jobs WHERE id = ?), "
                                         "9223372036854775807) ORDER BY number DESC LIMIT ?");
  query.Bind(after_id).Bind(limit);
  return AllRows(query, JobOf);
}

absl::StatusOr<int64_t> JobStore::CountSinceProgress(const std::string& id, const std::string& message) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(impl_->database,
                        "SELECT COUNT(*) FROM events WHERE job_id = ?1 AND message = ?2 AND sequence > (SELECT "
                        "MIN(sequence) FROM events WHERE job_id = ?1 AND step = (SELECT MAX(step) FROM events WHERE "
                        "job_id = ?1))");
  query.Bind(id).Bind(message);
  RETURN_IF_ERROR(query.Run());
  return query.Int(0);
}

absl::StatusOr<std::vector<Job>> JobStore::InState(JobState state) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(impl_->database, "SELECT " LORAD_JOB_COLUMNS " FROM jobs WHERE state = ? ORDER BY number");
  query.Bind(static_cast<int64_t>(state));
  return AllRows(query, JobOf);
}

absl::StatusOr<std::optional<Job>> JobStore::NextQueued() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(
      impl_->database, "SELECT " LORAD_JOB_COLUMNS " FROM jobs WHERE state = ? ORDER BY priority DESC, number LIMIT 1");
  query.Bind(static_cast<int64_t>(JobState::kQueued));
  return OneJob(query);
}

absl::StatusOr<std::vector<JobEvaluation>> JobStore::Evaluations(const std::string& id) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  // SQLite gives the row of the largest sequence to the other columns.
  SqliteStatement query(impl_->database,
                        "SELECT step, eval_loss, MAX(sequence) FROM events WHERE job_id = ? AND eval_loss IS NOT NULL "
                        "GROUP BY step ORDER BY step");
  query.Bind(id);
  return AllRows(query, [](const SqliteStatement& row) { return JobEvaluation{row.Int(0), row.Real(1)}; });
}

absl::StatusOr<std::vector<JobEvent>> JobStore::Events(const std::string& id, int64_t after_sequence,
                                                       int64_t limit) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(
      impl_->database,
      "SELECT sequence, state, step, loss, grad_norm, learning_rate, tokens_per_second, message, "
      "at_us, eval_loss, aux_loss FROM events WHERE job_id = ? AND sequence > ? ORDER BY sequence LIMIT ?");
  query.Bind(id).Bind(after_sequence).Bind(limit);
  return AllRows(query, [&](const SqliteStatement& row) { return EventOf(id, row); });
}

}  // namespace lorad
