#pragma once

#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "adapters/slot_table.h"
#include "model/kv/kv_layout.h"
#include "model/base/check.h"
#include "model/memory/page_pool.h"
#include "scheduler/executor.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_model.h"

namespace lorad {

// Runs the fake model on the real pages: a position's hidden value lies in its KV block, an adapter's content in the
// first bytes of its A matrix, found through the slot table as kernels find it. With takes_step_behind, as on a device.
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
    if (before_work) before_work();
    LORAD_CHECK(steps_.empty() || TakesStepBehind());
    std::vector<std::unique_ptr<OwnedRow>>& step = steps_.emplace_back();
    for (const ExecRow& row : rows) step.push_back(std::make_unique<OwnedRow>(row));
    return ++launched_;
  }
  // Only here the step runs, the latest that a device may.
  absl::StatusOr<StepResult> Wait(Ticket ticket) override {
    if (before_work) before_work();
    LORAD_CHECK(ticket == launched_ - static_cast<Ticket>(steps_.size()) + 1);
    StepResult result;
    std::vector<ExecRow> rows;
    std::vector<int32_t> draws;
    int64_t tokens = 0;
    for (const std::unique_ptr<OwnedRow>& owned : steps_.front()) {
      if (owned->row.from_draw >= 0) owned->GoOnFrom(draws_.at(static_cast<size_t>(owned->row.from_draw)));
      rows.push_back(owned->row);
      result.rows.push_back(RunRow(owned->row));
      if (owned->row.sample) draws.push_back(result.rows.back().token.token_id);
      tokens += static_cast<int64_t>(owned->row.token_ids.size());
    }
    result.execute_us = 1'000 + 100 * tokens;
    if (clock_ != nullptr) clock_->Advance(result.execute_us);
    if (on_step) on_step(rows, &result);
    steps_.pop_front();
    draws_ = std::move(draws);
    if (!step_error.ok()) return std::exchange(step_error, absl::OkStatus());
    return result;
  }
  bool TakesStepBehind() const override { return takes_step_behind && steps_.size() == 1; }

  bool takes_step_behind = false;
  std::function<void()> before_work;  // of a launch or a wait
  absl::Status step_error;            // of the next step
  std::function<void(absl::Span<const ExecRow> rows, StepResult* result)> on_step;

 private:
  // A row with what its spans point to.
  struct OwnedRow {
    explicit OwnedRow(const ExecRow& launched)
        : row(launched),
          token_ids(launched.token_ids.begin(), launched.token_ids.end()),
          prompt_ids(launched.prompt_ids.begin(), launched.prompt_ids.end()),
          generated_ids(launched.generated_ids.begin(), launched.generated_ids.end()),
          banned_ids(launched.banned_ids.begin(), launched.banned_ids.end()),
          sampling(*launched.sampling) {
      row.sampling = &sampling;
      row.prompt_ids = prompt_ids;
      row.banned_ids = banned_ids;
      row.token_ids = token_ids;
      row.generated_ids = generated_ids;
    }
    OwnedRow(const OwnedRow&) = delete;
    void GoOnFrom(int32_t token) {
      token_ids = {token};
      generated_ids.push_back(token);
      row.token_ids = token_ids;
      row.generated_ids = generated_ids;
      row.from_draw = -1;
    }
    ExecRow row;
    std::vector<int32_t> token_ids, prompt_ids, generated_ids, banned_ids;
    SamplingOptions sampling;
  };

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
    const int64_t known_tokens = row.sequence_tokens();
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
  Ticket launched_ = 0;
  std::deque<std::vector<std::unique_ptr<OwnedRow>>> steps_;  // in flight
  std::vector<int32_t> draws_;                                // of the last that ran
};

}  // namespace lorad
