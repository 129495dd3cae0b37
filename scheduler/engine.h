#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "adapters/loader.h"
#include "adapters/pool.h"
#include "model/kv/kv_layout.h"
#include "model/memory/page_pool.h"
#include "model/rope_switch.h"
#include "scheduler/account.h"
#include "scheduler/clock.h"
#include "scheduler/command.h"
#include "scheduler/completions.h"
#include "scheduler/executor.h"
#include "scheduler/observer.h"
#include "scheduler/snapshot.h"

namespace lorad {

struct EngineConfig {
  int64_t max_batch_tokens = 512;       // upper bound of a step's tokens
  int64_t target_step_us = 150'000;     // the budget of a step comes from its fitted time; max_batch_tokens bounds it
  int64_t max_sequences = 64;           // running at once
  int64_t queue_limit = 1024;           // sequences accepted and not yet running
  int64_t command_limit = 1024;         // adapter commands waiting
  int64_t max_overtakes = 64;           // how many later requests may begin before one whose adapter is loading
  int64_t max_adapters = 1'000'000;     // names known
  int64_t host_adapter_bytes = 0;       // of packed adapters kept in host memory; 0 = none
  int64_t max_context_tokens = 0;       // the model's
  int64_t vocab_size = 0;               // the model's; 0 = ids are not checked
  RopeSwitch rope_switch = {};          // the model's
  std::string order = "fcfs";           // a name of scheduler/order/table.cc
  ServicePrices prices = {};            // for orders that share
  int64_t max_running_per_adapter = 0;  // sequences; 0 = no limit. The base has none
  int64_t max_waiting_per_adapter = 0;  // accepted and not begun; the same
  int64_t slo_first_token_us = 0;       // 0 = none: end what can no longer make its first token so soon
  int64_t hanging_read_us = 5'000'000;  // a read that lasts longer may never end
  // A turn may run so many steps, each planned and launched while the one before it runs on a device. 1: the next one
  // is planned when one has ended.
  int64_t steps_a_turn = 32;
  bool prefix_cache = true;       // KV blocks of common prefixes are kept and shared
  bool check_invariants = false;  // after each turn, and abort when one is broken: for tests and development
  std::string adapter_dir = {};   // "" = none; a sub-folder loads by name at its first use
  std::string revision_dir = {};  // "" = none; the same for NAME@REV
};

// The only owner of scheduling state: sequences, the table of adapter names, pages, leases. One thread runs it.
//
// Threads  Run on the engine thread; all others from any.
// Errors   Submit: ResourceExhausted when queue_limit is reached; Unavailable while draining; InvalidArgument, with the
//          numbers, for a request that can never fit.
//          What goes wrong later reaches the request's sink, which in any case gets exactly one Finish for each
//          sequence.
class Engine final {
 public:
  // What the engine works with; all outlive it.
  struct Parts {
    PagePool* pages;
    AdapterPool* adapters;
    AdapterLoader* loader;
    StepExecutor* executor;
    StepObserver* observer;
    Completions* completions;
    const Clock* clock;
    KvLayout kv_layout;
    // Sinks may gather events until it is called: after each step, and before one for what a turn gave. May be empty.
    std::function<void()> events_given;
  };
  Engine(const EngineConfig& config, const Parts& parts);
  ~Engine();

  absl::Status Submit(Request request);
  // Makes a request whole that was submitted while it awaited its tokenizer, with the same id, names and n; it keeps
  // its place. What is wrong with it reaches its sink. Nothing happens when it has ended meanwhile.
  void GivePrompt(Request request);
  void Cancel(RequestId request, int32_t index, std::string reason, bool as_stop = false);
  absl::Status Load(LoadCommand command);
  absl::Status Unload(UnloadCommand command);
  absl::Status Pin(PinCommand command);
  absl::Status HoldForTuning(TuningMemoryCommand command);
  void OnLoaderEvent(LoaderEvent event);  // from loader threads
  void Drain(int64_t deadline_us);

  std::shared_ptr<const EngineSnapshot> snapshot() const;

  // The loop; returns when Drain has ended every request, or at once after Stop.
  void Run();
  void Stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
