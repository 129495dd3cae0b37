#include "scheduler/tuning/revisions.h"

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/base/status_macros.h"
#include "scheduler/tuning/checkpoints.h"
#include "scheduler/tuning/job_log.h"
#include "scheduler/tuning/sqlite.h"

namespace lorad {
namespace {

constexpr size_t kDigestCharacters = 12;

// The weights of an adapter's folder, in PEFT's format or MoE-PEFT's.
std::string WeightsIn(const std::string& folder) {
  const std::string of_peft = absl::StrCat(folder, "/adapter_model.safetensors");
  std::error_code error;
  return std::filesystem::exists(of_peft, error) ? of_peft : absl::StrCat(folder, "/adapter_model.bin");
}

std::string FirstColumn(const SqliteStatement& row) { return row.Text(0); }

}  // namespace

struct Revisions::Impl {
  Impl(SqliteDatabase opened, std::string folder) : database(std::move(opened)), dir(std::move(folder)) {}

  mutable std::mutex mutex;
  SqliteDatabase database;
  const std::string dir;
};

Revisions::Revisions(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Revisions::~Revisions() = default;

absl::StatusOr<std::unique_ptr<Revisions>> Revisions::Open(const std::string& database_path, const std::string& dir) {
  RETURN_IF_ERROR(MakeFolders(dir));
  ASSIGN_OR_RETURN(SqliteDatabase database, SqliteDatabase::Open(database_path));
  RETURN_IF_ERROR(database.Execute("PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;"));
  return std::unique_ptr<Revisions>(new Revisions(std::make_unique<Impl>(std::move(database), dir)));
}

std::string Revisions::Folder(const std::string& revision) const { return absl::StrCat(impl_->dir, "/", revision); }

absl::StatusOr<std::string> Revisions::Take(const std::string& name, const std::string& from,
                                            std::optional<double> eval_loss) {
  ASSIGN_OR_RETURN(const std::string digest, FileDigest(WeightsIn(from)));
  const std::string revision = absl::StrCat(name, "@", digest.substr(0, kDigestCharacters));
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  std::error_code error;
  if (std::filesystem::exists(Folder(revision), error)) {
    RETURN_IF_ERROR(RemoveFolder(from));
  } else {
    RETURN_IF_ERROR(MakeFolders(std::filesystem::path(Folder(revision)).parent_path().string()));
    RETURN_IF_ERROR(RenameSynced(from, Folder(revision)));
  }
  RETURN_IF_ERROR(
      SqliteStatement(impl_->database,
                      "INSERT OR IGNORE INTO revisions (name, revision, created_us, eval_loss) VALUES (?, ?, ?, ?)")
          .Bind(name)
          .Bind(revision)
          .Bind(UnixUs())
          .Bind(eval_loss)
          .Run());
  return revision;
}

absl::Status Revisions::Prune(const std::string& name, int64_t keep) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(
      impl_->database,
      "SELECT revision FROM revisions WHERE name = ?1 "
      "AND revision NOT IN (SELECT revision FROM aliases WHERE name = ?1) "
      "AND number NOT IN (SELECT number FROM revisions WHERE name = ?1 ORDER BY number DESC LIMIT ?2) "
      "AND number NOT IN (SELECT number FROM revisions WHERE name = ?1 AND eval_loss IS NOT NULL "
      "ORDER BY eval_loss LIMIT 1)");
  query.Bind(name).Bind(keep);
  ASSIGN_OR_RETURN(const std::vector<std::string> superfluous, AllRows(query, FirstColumn));
  for (const std::string& revision : superfluous) {
    RETURN_IF_ERROR(SqliteStatement(impl_->database, "DELETE FROM revisions WHERE revision = ?").Bind(revision).Run());
    RETURN_IF_ERROR(RemoveFolder(Folder(revision)));
  }
  return absl::OkStatus();
}

absl::Status Revisions::MakeCurrent(const std::string& name, const std::string& revision) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  return SqliteStatement(impl_->database, "INSERT OR REPLACE INTO aliases (name, revision) VALUES (?, ?)")
      .Bind(name)
      .Bind(revision)
      .Run();
}

absl::StatusOr<std::vector<std::string>> Revisions::Of(const std::string& name) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(impl_->database, "SELECT revision FROM revisions WHERE name = ? ORDER BY number DESC");
  query.Bind(name);
  return AllRows(query, FirstColumn);
}

absl::StatusOr<std::string> Revisions::Current(const std::string& name) const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(impl_->database, "SELECT revision FROM aliases WHERE name = ?");
  query.Bind(name);
  ASSIGN_OR_RETURN(const std::vector<std::string> found, AllRows(query, FirstColumn));
  if (!found.empty()) return found[0];
  return absl::NotFoundError(absl::StrCat("adapter: ", name, "; limit: one that was trained here"));
}

absl::StatusOr<std::vector<Revisions::Alias>> Revisions::Aliases() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  SqliteStatement query(impl_->database, "SELECT name, revision FROM aliases ORDER BY name");
  return AllRows(query, [](const SqliteStatement& row) { return Alias{row.Text(0), row.Text(1)}; });
}

absl::StatusOr<std::string> Revisions::Target(const std::string& name, const std::string& wanted) const {
  ASSIGN_OR_RETURN(const std::string current, Current(name));
  ASSIGN_OR_RETURN(const std::vector<std::string> all, Of(name));
  if (wanted.empty()) {
    const auto now = std::find(all.begin(), all.end(), current);
    if (now != all.end() && now + 1 != all.end()) return *(now + 1);
    return absl::FailedPreconditionError(
        absl::StrCat("adapter: ", name, "; revision: ", current, "; limit: one with a revision before it"));
  }
  const std::string full = wanted.find('@') == std::string::npos ? absl::StrCat(name, "@", wanted) : wanted;
  if (std::find(all.begin(), all.end(), full) != all.end()) return full;
  return absl::NotFoundError(
      absl::StrCat("revision: ", full.substr(0, 300), "; limit: one of: ", absl::StrJoin(all, ", ")));
}

}  // namespace lorad
