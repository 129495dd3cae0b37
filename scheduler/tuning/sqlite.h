#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/base/status_macros.h"

namespace lorad {

// The little of SQLite that the job store uses, with Status for errors.
//
// Threads  one at a time.
class SqliteDatabase final {
 public:
  static absl::StatusOr<SqliteDatabase> Open(const std::string& path);

  // One or several statements without parameters.
  absl::Status Execute(const char* sql);
  absl::StatusOr<int64_t> QueryInt(const char* sql);
  absl::Status Error(int code) const;
  sqlite3* handle() const { return handle_.get(); }

 private:
  struct Close {
    void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
  };
  explicit SqliteDatabase(sqlite3* handle) : handle_(handle) {}
  std::unique_ptr<sqlite3, Close> handle_;
};

// Rolled back unless it was committed.
class SqliteTransaction final {
 public:
  explicit SqliteTransaction(SqliteDatabase* database) : database_(database) {}
  ~SqliteTransaction() {
    if (open_) (void)database_->Execute("ROLLBACK");
  }
  absl::Status Begin() {
    RETURN_IF_ERROR(database_->Execute("BEGIN IMMEDIATE"));
    open_ = true;
    return absl::OkStatus();
  }
  absl::Status Commit() {
    RETURN_IF_ERROR(database_->Execute("COMMIT"));
    open_ = false;
    return absl::OkStatus();
  }

 private:
  SqliteDatabase* const database_;
  bool open_ = false;
};

// One prepared statement: bind from 1 on, step, read columns from 0 on.
class SqliteStatement final {
 public:
  SqliteStatement(const SqliteDatabase& database, const char* sql);

  SqliteStatement& Bind(const std::string& text);
  SqliteStatement& BindBlob(const std::string& bytes);
  SqliteStatement& Bind(int64_t value);
  SqliteStatement& Bind(double value);
  SqliteStatement& Bind(const std::optional<double>& value);

  // True: a row can be read. False: no more.
  absl::StatusOr<bool> Step();
  absl::Status Run();  // for statements without rows

  std::string Text(int column) const;
  int64_t Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }
  double Real(int column) const { return sqlite3_column_double(statement_.get(), column); }
  std::optional<double> OptionalReal(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
  };
  void Note(int code);
  const SqliteDatabase& database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int next_ = 1;
  int error_ = SQLITE_OK;  // of preparing or binding
};

// What `of_row` makes of each row that the statement has left.
template <typename OfRow>
auto AllRows(SqliteStatement& statement, const OfRow& of_row)
    -> absl::StatusOr<std::vector<decltype(of_row(statement))>> {
  std::vector<decltype(of_row(statement))> rows;
  while (true) {
    ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return rows;
    rows.push_back(of_row(statement));
  }
}

}  // namespace lorad
