#pragma once

#include <cstring>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "adapters/slot_table.h"
#include "model/kv/kv_layout.h"
#include "model/memory/page_pool.h"
#include "scheduler/executor.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_model.h"

namespace lorad {

// Runs the fake model on the real pages: a position's hidden value lies in its KV block, an adapter's content in the
// first bytes of its A matrix, found through the slot table as kernels find it.
class FakeExecutor final : public StepExecutor {
 public:
  FakeExecutor(const PagePool* pages, const SlotTable* slots, const KvLayout& layout, FakeClock* clock,
               const RopeSwitch& rope = {})
      : pages_(pages),
        slots_(slots),
        token_stride_bytes_(layout.block_bytes() / kKvBlockTokens),
        clock_(clock),
        rope_(rope) {}

  Ticket Launch(absl::Span<const ExecRow> rows, int64_t) override {
    StepResult result;
    int64_t tokens = 0;
    for (const ExecRow& row : rows) {
      result.rows.push_back(RunRow(row));
      tokens += static_cast<int64_t>(row.token_ids.size());
    }
    result.execute_us = 1'000 + 100 * tokens;
    if (clock_ != nullptr) clock_->Advance(result.execute_us);
    if (on_step) on_step(rows, &result);
    result_ = step_error.ok() ? absl::StatusOr<StepResult>(std::move(result)) : step_error;
    step_error = absl::OkStatus();
    return ++ticket_;
  }
  absl::StatusOr<StepResult> Wait(Ticket) override { return *std::exchange(result_, std::nullopt); }

  absl::Status step_error;  // of the next step
  std::function<void(absl::Span<const ExecRow> rows, StepResult* result)> on_step;

 private:
  std::byte* Place(const ExecRow& row, int64_t position) const {
    return pages_->arena() + row.blocks[position / kKvBlockTokens] * pages_->page_bytes() +
           position % kKvBlockTokens * token_stride_bytes_;
  }

  RowResult RunRow(const ExecRow& row) const {
    uint64_t content = 0;
    for (const SlotTerm& term : row.terms) {
      uint64_t of_term = 0;
      std::memcpy(&of_term, slots_->At(Site::kQProj, 0)[term.slot].a, sizeof(of_term));
      content = FakeContent(content, of_term, term.scale);
    }
    const auto known_tokens = static_cast<int64_t>(row.prompt_ids.size() + row.generated_ids.size());
    uint64_t hidden = 0;
    if (row.first_position > 0) std::memcpy(&hidden, Place(row, row.first_position - 1), sizeof(hidden));
    RowResult result;
    for (size_t i = 0; i < row.token_ids.size(); ++i) {
      const int64_t position = row.first_position + static_cast<int64_t>(i);
      const uint64_t of_position = position < row.active_from ? 0 : content;
      hidden = FakeHidden(hidden, row.token_ids[i], FakeRotated(of_position, rope_, known_tokens));
      std::memcpy(Place(row, position), &hidden, sizeof(hidden));
      if (row.prompt_logprobs && position + 1 < static_cast<int64_t>(row.prompt_ids.size())) {
        result.prompt_logprobs.push_back({.token_id = row.prompt_ids[position + 1], .logprob = -1.0f, .top = {}});
      }
    }
    if (row.sample) {
      result.sampled = true;
      result.token.token_id = FakeToken(hidden, row.sampling->seed, row.banned_ids);
    }
    return result;
  }

  const PagePool* const pages_;
  const SlotTable* const slots_;
  const int64_t token_stride_bytes_;
  FakeClock* const clock_;
  const RopeSwitch rope_;
  Ticket ticket_ = 0;
  std::optional<absl::StatusOr<StepResult>> result_;
};

}  // namespace lorad
