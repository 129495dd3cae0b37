#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "adapters/warm_adapters.h"
#include "model/kv/prefix_cache.h"
#include "scheduler/account.h"
#include "scheduler/composed_trees.h"
#include "scheduler/adapter_table.h"
#include "scheduler/begin_rate.h"
#include "scheduler/engine.h"
#include "scheduler/inbox.h"
#include "scheduler/order/order.h"
#include "scheduler/sequence.h"
#include "scheduler/step_time.h"

namespace lorad {

// The jobs of a loader, as adapters/loader.h has them; tests answer them by hand.
struct LoaderCalls {
  std::function<absl::Status(AdapterId id, std::string path, std::string expected_digest)> stage;
  std::function<absl::Status(AdapterId id, std::shared_ptr<const AdapterImage> image, PackedLayout layout,
                             std::byte* destination, std::shared_ptr<PackedAdapter> keep)>
      pack;
  std::function<absl::Status(AdapterId id, std::shared_ptr<const PackedAdapter> packed, std::byte* destination)> copy;
  std::function<void(AdapterId id)> cancel;  // the answer to a read is of no interest any more
};

// What the engine thread works with; all outlive the state.
struct SchedulerParts {
  PagePool* pages;
  AdapterPool* adapters;
  LoaderCalls loader;
  StepExecutor* executor;
  StepObserver* observer;
  const Clock* clock;
  Inbox* inbox;
  std::function<void(std::function<void()>)> post_reply;  // to the completions thread, after what it tells is published
  KvLayout kv_layout;
  std::function<void()> events_given;  // Engine::Parts
};

// Tokens of prompts that were looked up in the prefix cache, and of them those found there.
struct PrefixCounts {
  int64_t query_tokens = 0;
  int64_t hit_tokens = 0;
};

// What training holds of the pool's pages (PagePool::Withhold).
struct TuningMemory {
  int64_t pages = 0;       // that it asked for; more are withheld where a device has not given all back
  int64_t kept_pages = 0;  // of them: that asking for would be in vain
  std::function<void()> give_back;
  bool asked = false;  // to give it back, and has not answered
  // Wants more, of which a part is done each turn; answered when all is.
  std::optional<TuningMemoryCommand> growing;
  int64_t returned_us = -1;  // when it last asked for fewer
  int64_t retried_us = -1;   // when the device was last asked for what it has not given back
};

// All scheduling state. Plain data with one owner, the engine thread; what happens to it is written in the functions of
// this folder: Apply* (apply.h), lifecycle.h, reserve.h, commit.h, finish.h.
struct SchedulerState {
  EngineConfig config;
  SchedulerParts parts;
  const SequenceOrder* order = nullptr;

  std::unique_ptr<PrefixCache> prefix_cache;  // never null; outlives those below, who hold its blocks
  PrefixTrees base_prefixes;                  // null: nothing is cached
  ComposedTrees composed_prefixes;            // of compositions that were asked for lately
  PrefixCounts prefix_counts;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences;
  std::unordered_map<RequestId, std::vector<SequenceId>> by_request;
  std::vector<std::unique_ptr<Sequence>> ended;  // that a step in flight has rows of (Sequence::ended)
  std::vector<Sequence*> running;                // by CameBefore
  std::vector<Sequence*> waiting;                // as ArrangeWaiting left it, new ones behind
  Accounts accounts;
  AdapterTable adapters;
  WarmAdapters warm{0};  // of `adapters`
  StepTimeModel step_time;
  BeginRate begin_rate;
  int64_t last_hang_us = -1;                   // when a read was last found to hang; -1 = never
  std::vector<std::function<void()>> replies;  // to be posted once the snapshot shows what they tell
  TuningMemory tuning_memory;
  SequenceId next_sequence = 1;
  bool draining = false;
  int64_t drain_deadline_us = 0;

  int64_t pages_per_block() const { return parts.pages->PagesFor(parts.kv_layout.block_bytes()); }
};

// Tokens of a step: what fits its target time, at least one for each that runs and some of a prompt.
int64_t TokenBudget(const SchedulerState& state);

// Left free when a sequence begins, for the running ones to grow into.
int64_t WatermarkPages(const SchedulerState& state);

// Puts `sequence` at its place by CameBefore in `list`, or takes it out of one in any order.
void InsertInOrder(Sequence* sequence, std::vector<Sequence*>* list);
void EraseFrom(Sequence* sequence, std::vector<Sequence*>* list);

}  // namespace lorad
