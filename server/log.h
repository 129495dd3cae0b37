#pragma once

#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace lorad {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarning, kError };

struct LogField {
  LogField(absl::string_view key, const absl::AlphaNum& value) : key(key), value(value.data(), value.size()) {}
  absl::string_view key;
  std::string value;
};

// One line an event: time, level, event, key=value … A value with a space, a quote or a control character is quoted.
// Threads: any. Never more than one write a line, so that lines do not mix.
class Log final {
 public:
  // `out` is not owned.
  explicit Log(LogLevel level, std::FILE* out = stderr) : level_(level), out_(out) {}

  void Debug(absl::string_view event, std::initializer_list<LogField> fields = {}) {
    Write(LogLevel::kDebug, event, fields);
  }
  void Info(absl::string_view event, std::initializer_list<LogField> fields = {}) {
    Write(LogLevel::kInfo, event, fields);
  }
  void Warning(absl::string_view event, std::initializer_list<LogField> fields = {}) {
    Write(LogLevel::kWarning, event, fields);
  }
  void Error(absl::string_view event, std::initializer_list<LogField> fields = {}) {
    Write(LogLevel::kError, event, fields);
  }

 private:
  void Write(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields);

  const LogLevel level_;
  std::FILE* const out_;
  std::mutex mutex_;
};

// The line without its time, for Log and its test.
std::string FormatLogLine(LogLevel level, absl::string_view event, std::initializer_list<LogField> fields);

}  // namespace lorad
