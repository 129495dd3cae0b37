#include "scheduler/tuning/sqlite.h"

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {

absl::StatusOr<SqliteDatabase> SqliteDatabase::Open(const std::string& path) {
  sqlite3* handle = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  SqliteDatabase database(handle);
  if (code != SQLITE_OK) {
    const absl::Status error = database.Error(code);
    return absl::Status(error.code(), absl::StrCat(path, ": ", error.message()));
  }
  return database;
}

absl::Status SqliteDatabase::Error(int code) const {
  const std::string message =
      absl::StrCat("job store: ", handle_ == nullptr ? sqlite3_errstr(code) : sqlite3_errmsg(handle_.get()));
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::DataLossError(message);
    case SQLITE_CONSTRAINT:
      return absl::AlreadyExistsError(message);
    default:
      return absl::UnavailableError(message);
  }
}

absl::Status SqliteDatabase::Execute(const char* sql) {
  const int code = sqlite3_exec(handle_.get(), sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

absl::StatusOr<int64_t> SqliteDatabase::QueryInt(const char* sql) {
  SqliteStatement statement(*this, sql);
  ASSIGN_OR_RETURN(const bool row, statement.Step());
  return row ? statement.Int(0) : 0;
}

SqliteStatement::SqliteStatement(const SqliteDatabase& database, const char* sql) : database_(database) {
  sqlite3_stmt* statement = nullptr;
  Note(sqlite3_prepare_v2(database.handle(), sql, -1, &statement, nullptr));
  statement_.reset(statement);
}

void SqliteStatement::Note(int code) {
  if (error_ == SQLITE_OK) error_ = code;
}

SqliteStatement& SqliteStatement::Bind(const std::string& text) {
  Note(sqlite3_bind_text(statement_.get(), next_++, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT));
  return *this;
}
SqliteStatement& SqliteStatement::BindBlob(const std::string& bytes) {
  Note(sqlite3_bind_blob(statement_.get(), next_++, bytes.data(), static_cast<int>(bytes.size()), SQLITE_TRANSIENT));
  return *this;
}
SqliteStatement& SqliteStatement::Bind(int64_t value) {
  Note(sqlite3_bind_int64(statement_.get(), next_++, value));
  return *this;
}
SqliteStatement& SqliteStatement::Bind(double value) {
  Note(sqlite3_bind_double(statement_.get(), next_++, value));
  return *this;
}
SqliteStatement& SqliteStatement::Bind(const std::optional<double>& value) {
  if (value.has_value()) return Bind(*value);
  Note(sqlite3_bind_null(statement_.get(), next_++));
  return *this;
}

absl::StatusOr<bool> SqliteStatement::Step() {
  if (error_ != SQLITE_OK) return database_.Error(error_);
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return database_.Error(code);
}

absl::Status SqliteStatement::Run() { return Step().status(); }

std::string SqliteStatement::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  if (bytes == nullptr) return "";
  return std::string(static_cast<const char*>(bytes),
                     static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column)));
}

std::optional<double> SqliteStatement::OptionalReal(int column) const {
  if (sqlite3_column_type(statement_.get(), column) == SQLITE_NULL) return std::nullopt;
  return Real(column);
}

}  // namespace lorad
