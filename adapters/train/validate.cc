#include "adapters/train/validate.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr size_t kToldLines = 10;

bool IsTheLines(const absl::Status& status) { return absl::IsInvalidArgument(status); }

}  // namespace

absl::StatusOr<DatasetSummary> ReadDataset(const ForEachLineFn& lines, const ExampleReader& reader,
                                           const std::function<absl::Status(const Example&)>& keep) {
  DatasetSummary summary;
  int64_t wrong = 0;
  std::vector<std::string> told;
  RETURN_IF_ERROR(lines([&](int64_t number, std::string_view line) -> absl::Status {
    const absl::StatusOr<ReadExampleResult> read = reader.Read(line);
    if (!read.ok()) {
      if (!IsTheLines(read.status())) return read.status();
      ++wrong;
      if (told.size() < kToldLines) told.push_back(absl::StrCat("line ", number, ": ", read.status().message()));
      return absl::OkStatus();
    }
    const auto tokens = static_cast<int64_t>(read->example.token_ids.size());
    ++summary.examples;
    summary.tokens += tokens;
    summary.trained_tokens += TrainedTokens(read->example);
    summary.truncated += read->full_tokens > tokens;
    summary.longest_tokens = std::max(summary.longest_tokens, read->full_tokens);
    return wrong == 0 ? keep(read->example) : absl::OkStatus();
  }));
  if (wrong > 0) {
    return absl::InvalidArgumentError(absl::StrCat("dataset: wrong lines: ", wrong, "; limit: 0; ",
                                                   absl::StrJoin(told, "; "), wrong > 10 ? "; …" : ""));
  }
  if (summary.examples == 0) return absl::InvalidArgumentError("dataset: examples: 0; limit: at least 1");
  return summary;
}

}  // namespace lorad
