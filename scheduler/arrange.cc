#include "scheduler/arrange.h"

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <vector>

#include "scheduler/first_token.h"
#include "scheduler/wanted_versions.h"

namespace lorad {
namespace {

bool CouldBegin(const Sequence& sequence, const SchedulerState& state) {
  if (sequence.adapters.empty()) return true;
  const int64_t limit = state.config.max_running_per_adapter;
  if (limit > 0 && sequence.account->running >= limit) return false;
  return ReadinessOf(sequence) == AdapterReadiness::kReady;
}

std::vector<Account*> BackloggedAccounts(const SchedulerState& state) {
  std::vector<Account*> backlogged;
  std::unordered_set<const Account*> seen;
  for (const Sequence* sequence : state.waiting) {
    if (!seen.contains(sequence->account) && CouldBegin(*sequence, state)) {
      seen.insert(sequence->account);
      backlogged.push_back(sequence->account);
    }
  }
  return backlogged;
}

}  // namespace

void ArrangeWaiting(SchedulerState* state) {
  std::vector<Sequence*>& waiting = state->waiting;
  std::sort(waiting.begin(), waiting.end(),
            [](const Sequence* a, const Sequence* b) { return CameBefore(a->order, b->order); });
  state->accounts.UpdateBacklogs(BackloggedAccounts(*state));

  std::vector<OrderKey> keys;
  keys.reserve(waiting.size());
  for (const Sequence* sequence : waiting) {
    OrderKey key = sequence->order;
    key.account = sequence->account->id;
    key.served = state->accounts.Standing(*sequence->account);
    if (!key.begun) key.cost = state->accounts.CostToBegin(*sequence->account, sequence->prompt_tokens);
    keys.push_back(key);
  }
  std::vector<Sequence*> arranged;
  arranged.reserve(waiting.size());
  for (const size_t place : state->order->Arrange(keys, ServeLatestFirst(*state))) arranged.push_back(waiting[place]);
  waiting = std::move(arranged);
}

}  // namespace lorad
