#include "scheduler/engine_core.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "scheduler/adapter_memory.h"
#include "scheduler/apply.h"
#include "scheduler/arrange.h"
#include "scheduler/finish.h"
#include "scheduler/first_token.h"
#include "scheduler/invariants.h"
#include "scheduler/lifecycle.h"
#include "scheduler/plan_input.h"
#include "scheduler/reserve.h"
#include "scheduler/run_steps.h"
#include "scheduler/stuck.h"
#include "scheduler/tuning_memory.h"

namespace lorad {
namespace {

constexpr int64_t kReadCheckUs = 1'000'000;

}  // namespace

struct EngineCore::Published {
  mutable std::mutex mutex;
  std::shared_ptr<const EngineSnapshot> snapshot;
};

EngineCore::EngineCore(const EngineConfig& config, SchedulerParts parts) : published_(std::make_unique<Published>()) {
  state_.config = config;
  // Every running sequence has a row's token in a step.
  state_.config.max_sequences = std::min(config.max_sequences, config.max_batch_tokens);
  state_.parts = std::move(parts);
  state_.prefix_cache = std::make_unique<PrefixCache>(state_.parts.pages);
  if (config.prefix_cache) {
    state_.base_prefixes = state_.prefix_cache->TreesOf("base", config.rope_switch.last_variant);
  }
  state_.order = FindSequenceOrder(config.order);
  state_.accounts = Accounts(config.prices);
  state_.warm = WarmAdapters(config.host_adapter_bytes);
  LORAD_CHECK(state_.order != nullptr);
  Publish();
}

EngineCore::~EngineCore() { End(); }

void EngineCore::Apply(Command command) { lorad::Apply(std::move(command), &state_); }

bool EngineCore::Turn() {
  const Clock& clock = *state_.parts.clock;
  const int64_t begin_us = clock.NowUs();
  ExpireDeadlines(&state_);
  EndLateRequests(&state_);
  bool acted = GoOnHoldingMemory(&state_);
  acted |= TakePagesBack(&state_);
  acted |= SettleAdapters(&state_);
  ArrangeWaiting(&state_);
  acted |= RunResidency(&state_);
  if (!state_.replies.empty()) Publish();  // a reply does not wait for the step

  const StepPlan plan = PlanStep(MakePlanInput(state_));
  bool moving = false;
  HeldStep held = Reserve(plan, &state_, &moving);
  acted |= moving || !plan.preempt.empty();
  if (!plan.preempt.empty()) AskTuningForMemory(&state_);
  if (held.empty()) {
    if (!acted) acted = FailHeadIfStuck(&state_);
  } else {
    for (const SequenceId id : plan.overtaken) ++state_.sequences.at(id)->overtaken;
    // What was done in this turn may go on in the next one, with nothing in flight.
    GiveEvents();  // what ended in this turn does not wait for the step
    const int64_t most_steps = acted ? 1 : state_.config.steps_a_turn;
    RunSteps(std::move(held), begin_us, most_steps, &state_, [this] { Publish(); });
    acted = true;
  }
  acted |= SettleAdapters(&state_);
  Publish();
  if (state_.config.check_invariants) LORAD_CHECK(CheckInvariants(state_).ok());
  return acted;
}

int64_t EngineCore::WaitBudgetUs() const {
  int64_t deadline_us = NextDeadlineUs(state_);
  const int64_t late_us = NextLateUs(state_);
  if (late_us >= 0 && (deadline_us < 0 || late_us < deadline_us)) deadline_us = late_us;
  int64_t budget_us = deadline_us < 0 ? -1 : std::max<int64_t>(0, deadline_us - state_.parts.clock->NowUs());
  // Reads that last long make way for others, which no command tells.
  const bool reading = !state_.adapters.Watched().empty();
  if (reading && (budget_us < 0 || budget_us > kReadCheckUs)) budget_us = kReadCheckUs;
  const int64_t pages_us = TakePagesBackInUs(state_);
  if (pages_us >= 0 && (budget_us < 0 || budget_us > pages_us)) budget_us = pages_us;
  return budget_us;
}

void EngineCore::End() {
  const absl::Status ended = absl::UnavailableError("the daemon is shutting down");
  while (!state_.running.empty()) GiveUp(ended, state_.running.back(), &state_);
  while (!state_.waiting.empty()) GiveUp(ended, state_.waiting.back(), &state_);
  AnswerOpenCommands(ended, &state_);
  EndTuningMemory(ended, &state_);
  SettleAdapters(&state_);
  Publish();
}

std::shared_ptr<const EngineSnapshot> EngineCore::snapshot() const {
  const std::lock_guard<std::mutex> lock(published_->mutex);
  return published_->snapshot;
}

void EngineCore::Publish() {
  const PagePool& pages = *state_.parts.pages;
  auto snapshot = std::make_shared<EngineSnapshot>();
  snapshot->running_sequences = static_cast<int64_t>(state_.running.size());
  snapshot->waiting_sequences = static_cast<int64_t>(state_.waiting.size());
  snapshot->total_pages = pages.total_pages();
  snapshot->free_pages = pages.free_pages();
  snapshot->kv_pages = pages.used_pages(PageOwner::kKv) - state_.prefix_cache->idle_pages();
  snapshot->cached_pages = state_.prefix_cache->idle_pages();
  snapshot->prefix_cache = {.cached_blocks = state_.prefix_cache->stats().blocks,
                            .evicted_blocks = state_.prefix_cache->stats().evicted_blocks,
                            .query_tokens = state_.prefix_counts.query_tokens,
                            .hit_tokens = state_.prefix_counts.hit_tokens};
  snapshot->adapter_pages = pages.used_pages(PageOwner::kAdapter);
  snapshot->warm_adapters = state_.warm.count();
  snapshot->warm_bytes = state_.warm.bytes();
  snapshot->tuning_pages = pages.withheld_pages();
  snapshot->page_bytes = pages.page_bytes();
  snapshot->pages_per_kv_block = state_.pages_per_block();
  snapshot->draining = state_.draining;
  if (!state_.adapters.changed() && published_->snapshot != nullptr) {
    snapshot->adapters = published_->snapshot->adapters;
  } else {
    auto listing = std::make_shared<AdapterListing>();
    listing->all = state_.adapters.List();
    for (const std::shared_ptr<const AdapterInfo>& info : listing->all) {
      if (info->state == AdapterState::kResident) listing->resident.push_back(info->name);
      if (info->running_requests > 0) listing->running.push_back(info->name);
      if (info->waiting_requests > 0) listing->waiting.push_back(info->name);
    }
    snapshot->adapters = std::move(listing);
  }
  {
    const std::lock_guard<std::mutex> lock(published_->mutex);
    published_->snapshot = std::move(snapshot);
  }
  for (std::function<void()>& reply : std::exchange(state_.replies, {})) state_.parts.post_reply(std::move(reply));
  GiveEvents();
}

void EngineCore::GiveEvents() {
  if (state_.parts.events_given) state_.parts.events_given();
}

}  // namespace lorad
