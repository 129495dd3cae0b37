#include "adapters/kinds/config_expression.h"

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr int64_t kMaxRegexBytes = 256 << 10;

// Parts of Python's syntax that need backtracking.
bool NeedsBacktracking(const std::string& expression) {
  for (const char* part : {"(?=", "(?!", "(?<=", "(?<!", "(?>", "(?(", "(?P="}) {
    if (absl::StrContains(expression, part)) return true;
  }
  for (size_t i = 0; i + 1 < expression.size(); ++i) {
    if (expression[i] != '\\') continue;
    if (expression[i + 1] >= '1' && expression[i + 1] <= '9') return true;
    ++i;
  }
  return false;
}

}  // namespace

absl::StatusOr<ConfigExpression> CompileConfigExpression(const char* key, const std::string& expression,
                                                         const char* wrap) {
  const std::string what = absl::StrCat("adapter_config.json: ", key, ": ", Printable(expression));
  if (NeedsBacktracking(expression)) {
    return absl::UnimplementedError(absl::StrCat(
        what, "; look-around and back references are not supported: expressions are matched in linear time"));
  }
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(kMaxRegexBytes);
  auto regex = std::make_unique<RE2>(absl::StrReplaceAll(wrap, {{"$0", expression}}), options);
  if (regex->ok()) return regex;
  if (regex->error_code() == RE2::ErrorPatternTooLarge) {
    return absl::InvalidArgumentError(absl::StrCat(what, "; too large when compiled; limit: ", kMaxRegexBytes,
                                                   " bytes; use fewer or smaller repeats, or name the modules"));
  }
  const std::string message = absl::StrCat(what, "; not an expression: ", Printable(regex->error()));
  switch (regex->error_code()) {
    case RE2::ErrorBadEscape:
    case RE2::ErrorBadPerlOp:
    case RE2::ErrorRepeatSize:
      return absl::UnimplementedError(absl::StrCat(message, "; the syntax is RE2's"));
    default:
      return absl::InvalidArgumentError(message);
  }
}

absl::Status TooManyInstructions(const char* key, const std::string& expression, int64_t instructions) {
  return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: ", key, ": ", Printable(expression),
                                                 "; instructions when compiled up to here: ", instructions, "; limit: ",
                                                 kMaxTableInstructions, "; use fewer or smaller expressions"));
}

}  // namespace lorad
