#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/base/check.h"
#include "scheduler/engine_core.h"
#include "scheduler/invariants.h"
#include "tests/support/counting_observer.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_executor.h"
#include "tests/support/fake_loader.h"
#include "tests/support/recording_sink.h"

namespace lorad {

// An engine core on real pages and a real pool, with fakes for clock, loader and model. One KV block takes one page
// unless `kv_pages_per_block` says otherwise.
struct FakeWorldOptions {
  int64_t total_pages = 64;
  int64_t kv_pages_per_block = 1;
  EngineConfig config = {};
};

class FakeWorld final {
 public:
  static constexpr int64_t kPageBytes = 4096;
  using Options = FakeWorldOptions;

  // `memory`: the pool's; none: the host's.
  explicit FakeWorld(const Options& options, std::unique_ptr<PoolMemory> memory = nullptr)
      : kv_layout{.num_layers = 1,
                  .num_kv_heads = options.kv_pages_per_block,
                  .head_dim = kPageBytes / (2 * kKvBlockTokens * 4),
                  .dtype = DType::kF32},
        pages(memory == nullptr ? *PagePool::Create(options.total_pages * kPageBytes, kPageBytes)
                                : *PagePool::Create(std::move(memory), kPageBytes)),
        pool(pages.get(), FakeShape()),
        executor(pages.get(), &pool.slots(), kv_layout, &clock, options.config.rope_switch),
        inbox(options.config.queue_limit, options.config.command_limit),
        core(Config(options), {.pages = pages.get(),
                               .adapters = &pool,
                               .loader = loader.Calls(),
                               .executor = &executor,
                               .observer = &observer,
                               .clock = &clock,
                               .inbox = &inbox,
                               .post_reply = [](std::function<void()> call) { call(); },
                               .kv_layout = kv_layout,
                               .events_given = [this] { *gathered = 0; }}) {
    // Whoever waits for an event does not wait for a step as well.
    executor.before_work = [this] { LORAD_CHECK_EQ(*gathered, 0); };
  }

  // The folder of `name` holds this.
  void Folder(const std::string& name, uint64_t content, int64_t pages_wanted = 1) {
    loader.folders[PathOf(name)] = {.content = content, .bytes = pages_wanted * kPageBytes - 100};
  }
  static std::string PathOf(const std::string& name) { return "/adapters/" + name; }

  Request MakeRequest(const std::string& adapter, int64_t prompt_tokens, int64_t max_tokens) {
    Request request;
    request.id = next_request_++;
    request.adapter = adapter;
    for (int64_t i = 0; i < prompt_tokens; ++i) {
      request.prompt_ids.push_back(static_cast<int32_t>(FakeMix(request.id * 1000 + i) % kFakeVocabulary));
    }
    request.sampling.max_tokens = max_tokens;
    request.arrival_us = clock.NowUs();
    request.sink = std::make_shared<RecordingSink>(gathered);
    return request;
  }
  static std::shared_ptr<RecordingSink> SinkOf(const Request& request) {
    return std::static_pointer_cast<RecordingSink>(request.sink);
  }

  absl::Status Submit(Request request, const std::string& folder = "") {
    return Submit(std::move(request), std::vector<std::string>{folder});
  }
  absl::Status Submit(Request request, std::vector<std::string> folders) {  // of its adapters in order
    return inbox.PutSubmit({.request = std::move(request), .adapter_folders = std::move(folders)});
  }
  // Submits; what it will be told.
  std::shared_ptr<RecordingSink> Generate(const std::string& adapter, int64_t prompt_tokens, int64_t max_tokens) {
    Request request = MakeRequest(adapter, prompt_tokens, max_tokens);
    std::shared_ptr<RecordingSink> sink = SinkOf(request);
    LORAD_CHECK(Submit(std::move(request)).ok());
    return sink;
  }
  // Loads `name` from its folder and takes turns until it is answered.
  absl::StatusOr<AdapterInfo> Load(const std::string& name, bool pinned = false, bool replace = false) {
    auto answer = StartLoad(name, pinned, replace);
    for (int i = 0; i < 100 && !answer->has_value(); ++i) {
      AnswerLoader();
      Turn();
    }
    return answer->value_or(absl::DeadlineExceededError("no reply to the load"));
  }
  using LoadAnswer = std::shared_ptr<std::optional<absl::StatusOr<AdapterInfo>>>;
  LoadAnswer StartLoad(const std::string& name, bool pinned = false, bool replace = false) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<AdapterInfo>>>();
    LORAD_CHECK(inbox
                    .PutAdapter(LoadCommand{.name = name,
                                            .path = PathOf(name),
                                            .pinned = pinned,
                                            .replace = replace,
                                            .reply =
                                                [answer](absl::StatusOr<AdapterInfo> info) {
                                                  LORAD_CHECK(!answer->has_value());
                                                  *answer = std::move(info);
                                                }})
                    .ok());
    return answer;
  }
  LoadAnswer Pin(const std::string& name, bool pinned) {
    auto answer = std::make_shared<std::optional<absl::StatusOr<AdapterInfo>>>();
    LORAD_CHECK(inbox
                    .PutAdapter(PinCommand{.name = name,
                                           .pinned = pinned,
                                           .reply =
                                               [answer](absl::StatusOr<AdapterInfo> info) {
                                                 LORAD_CHECK(!answer->has_value());
                                                 *answer = std::move(info);
                                               }})
                    .ok());
    return answer;
  }
  using UnloadAnswer = std::shared_ptr<std::optional<absl::Status>>;
  UnloadAnswer Unload(const std::string& name) {
    auto answer = std::make_shared<std::optional<absl::Status>>();
    LORAD_CHECK(inbox
                    .PutAdapter(UnloadCommand{.name = name,
                                              .reply =
                                                  [answer](absl::Status status) {
                                                    LORAD_CHECK(!answer->has_value());
                                                    *answer = std::move(status);
                                                  }})
                    .ok());
    return answer;
  }

  // Applies what came in, takes one turn, checks the invariants. True: something was done.
  bool Turn() {
    std::vector<Command> commands;
    inbox.DrainInto(&commands, 0);
    for (Command& command : commands) core.Apply(std::move(command));
    const bool acted = core.Turn();
    LORAD_CHECK_EQ(*gathered, 0);
    const absl::Status broken = CheckInvariants(core.state());
    if (!broken.ok()) std::fprintf(stderr, "%s\n", std::string(broken.message()).c_str());
    LORAD_CHECK(broken.ok());
    return acted;
  }
  // Answers every loader job that does not hang.
  bool AnswerLoader() {
    bool answered = false;
    for (size_t i = 0; i < loader.jobs.size();) {
      if (!loader.CanAnswer(loader.jobs[i])) {
        ++i;
        continue;
      }
      inbox.Put(LoaderCommand{loader.Answer(i)});
      answered = true;
    }
    return answered;
  }
  // Until nothing moves any more.
  void Settle(int most_turns = 10'000) {
    for (int i = 0; i < most_turns; ++i) {
      const bool answered = AnswerLoader();
      if (!Turn() && !answered && loader_idle()) return;
    }
  }
  bool loader_idle() const {
    for (const FakeLoader::Job& job : loader.jobs) {
      if (loader.CanAnswer(job)) return false;
    }
    return true;
  }

  // Pages that nobody uses: free, or of cached blocks that no sequence holds.
  int64_t unused_pages() const { return pages->free_pages() + core.state().prefix_cache->idle_pages(); }

  const AdapterInfo* Listed(const std::string& name) {
    listing_ = core.snapshot()->adapters;
    for (const auto& info : listing_->all) {
      if (info->name == name) return info.get();
    }
    return nullptr;
  }

  FakeClock clock;
  KvLayout kv_layout;
  std::unique_ptr<PagePool> pages;
  AdapterPool pool;
  FakeLoader loader;
  FakeExecutor executor;
  CountingObserver observer;
  Inbox inbox;
  const std::shared_ptr<int> gathered = std::make_shared<int>(0);  // events of sinks since they were given
  EngineCore core;

 private:
  static EngineConfig Config(const Options& options) {
    EngineConfig config = options.config;
    if (config.max_context_tokens == 0) config.max_context_tokens = 4096;
    return config;
  }
  RequestId next_request_ = 1;
  std::shared_ptr<const AdapterListing> listing_;
};

}  // namespace lorad
