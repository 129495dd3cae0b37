#include "scheduler/warm_up.h"

#include <algorithm>
#include <vector>

#include "absl/types/span.h"
#include "model/kv/kv_layout.h"
#include "model/sampler/sampling_options.h"

namespace lorad {
namespace {

// Sequences of one block each: attention over long ones loads no other kernels.
absl::Status RunStep(int64_t tokens, int64_t pages_of_block, StepExecutor* executor) {
  const std::vector<int32_t> prompt(static_cast<size_t>(kKvBlockTokens), 0);
  const SamplingOptions sampling;
  std::vector<ExecRow> rows;
  for (int64_t left = tokens; left > 0; left -= kKvBlockTokens) {
    ExecRow& row = rows.emplace_back();
    row.sequence = static_cast<SequenceId>(rows.size());
    row.token_ids = row.prompt_ids =
        absl::MakeConstSpan(prompt).first(static_cast<size_t>(std::min(left, kKvBlockTokens)));
    row.blocks = {static_cast<int32_t>((std::ssize(rows) - 1) * pages_of_block)};
    row.sample = true;
    row.sampling = &sampling;
  }
  return executor->Wait(executor->Launch(rows, /*expected_us=*/0)).status();
}

}  // namespace

absl::Status WarmUp(const WarmUpLimits& limits, StepExecutor* executor) {
  const int64_t fit = limits.total_pages / limits.pages_of_block * kKvBlockTokens;
  if (fit == 0) return absl::OkStatus();
  // One token twice: only what was seen before is captured.
  for (const int64_t tokens : {int64_t{1}, int64_t{1}, std::min(limits.batch_tokens, fit)}) {
    if (absl::Status status = RunStep(tokens, limits.pages_of_block, executor); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace lorad
