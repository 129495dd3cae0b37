#pragma once

#include <re2/re2.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {

// An expression of adapter_config.json. Those are written for Python's `re`; here they are matched in linear time, so
// that none of them can hang a loader.
using ConfigExpression = std::unique_ptr<RE2>;

// `key` is where it stands; `wrap` is the expression that PEFT builds around the user's, with $0 in its place.
//
// Errors   Unimplemented for look-around and back references, and for what RE2's syntax does not have; InvalidArgument
//          for one that is broken, or too large when compiled.
absl::StatusOr<ConfigExpression> CompileConfigExpression(const char* key, const std::string& expression,
                                                         const char* wrap);

inline constexpr int64_t kMaxTableInstructions = 1 << 20;  // of all expressions of a table; 16 bytes each
absl::Status TooManyInstructions(const char* key, const std::string& expression, int64_t instructions);

// rank_pattern or alpha_pattern: values by expressions of module paths, in the file's order. Source: peft 0.21.2,
// get_pattern_key of utils/other.py.
template <typename T>
class ExpressionTable final {
 public:
  static absl::StatusOr<ExpressionTable> Make(const char* key, const std::vector<std::pair<std::string, T>>& entries) {
    ExpressionTable table;
    int64_t instructions = 0;
    for (const auto& [expression, value] : entries) {
      ASSIGN_OR_RETURN(ConfigExpression regex, CompileConfigExpression(key, expression, R"(^(.*\.)?($0)$)"));
      instructions += regex->ProgramSize();
      if (instructions > kMaxTableInstructions) return TooManyInstructions(key, expression, instructions);
      table.entries_.emplace_back(std::move(regex), value);
    }
    return table;
  }
  // Of the first expression, in the file's order, that matches.
  T ValueFor(const std::string& path, T otherwise) const {
    for (const auto& [regex, value] : entries_) {
      if (RE2::PartialMatch(path, *regex)) return value;
    }
    return otherwise;
  }

 private:
  std::vector<std::pair<ConfigExpression, T>> entries_;
};

}  // namespace lorad
