#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "adapters/apply.h"
#include "adapters/graph_seam.h"
#include "adapters/image.h"
#include "adapters/loader.h"
#include "adapters/pool.h"
#include "model/base/file_source.h"
#include "model/causal_lm.h"
#include "model/memory/page_pool.h"
#include "model/step_graphs.h"
#include "scheduler/engine.h"
#include "scheduler/engine_core.h"
#include "scheduler/inbox.h"
#include "scheduler/model_executor.h"
#include "scheduler/request.h"

namespace lorad {

// Keeps what a request's sequences got, and what broke the rules of a sink.
class Recording final : public TokenSink {
 public:
  struct Sequence {
    std::string adapter;
    std::vector<TokenLogprob> tokens;
    std::vector<TokenLogprob> prompt_logprobs;
    std::vector<float> class_logits;
    std::optional<Finish> finish;
  };
  explicit Recording(const Request& request);
  void OnEvent(TokenEvent event) override;

  bool finished() const;
  void WaitUntilFinished() const;
  const std::vector<Sequence>& sequences() const { return sequences_; }  // once finished, or between turns
  const std::string& broken_rule() const { return broken_rule_; }        // the same; "" = none

 private:
  bool AllFinished() const;
  const RequestId request_;
  const std::string adapter_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Sequence> sequences_;
  std::string broken_rule_;
};

class ManualClock final : public Clock {
 public:
  int64_t NowUs() const override { return now_us_; }
  void Advance(int64_t us) { now_us_ += us; }

 private:
  int64_t now_us_ = 1'000'000;
};

class CountingObserver final : public StepObserver {
 public:
  int64_t steps = 0, mixed_steps = 0, prefill_steps = 0, tokens = 0, finished = 0;
  int64_t loads = 0, load_failures = 0, evictions = 0, preemptions = 0, most_adapters = 0, most_sequences = 0;
  int64_t steps_behind = 0, warm_loads = 0;
  std::map<std::string, int64_t> device_steps;  // by DeviceStep::how
  DeviceStep last_device_step;

 private:
  void OnStep(const StepStats& step) override;
  void OnScheduled(int64_t queue_us) override {}
  void OnFirstToken(int64_t first_token_us) override {}
  void OnToken(const std::string& adapter, int64_t count, int64_t gap_us) override { tokens += count; }
  void OnFinish(const SequenceStats& sequence) override { ++finished; }
  void OnAdapterLoaded(const std::string& name, LoadedFrom from, int64_t load_us) override {
    ++loads;
    warm_loads += from == LoadedFrom::kHost;
  }
  void OnAdapterLoadFailed(const std::string& name) override { ++load_failures; }
  void OnAdapterEvicted(const std::string& name) override { ++evictions; }
  void OnPreempted(const std::string& adapter) override { ++preemptions; }
};

struct EngineSetup {
  int64_t pool_bytes = int64_t{64} << 20;
  DeviceMemory device = {};                        // where the pool is to lie; none: the host's
  std::optional<StepGraphs::Options> graphs = {};  // steps on the device are captured
  int64_t page_bytes = 4096;
  // Large steps whose size does not depend on time; a test makes them small. 0 in max_context_tokens: the model's. A
  // test decides what comes between turns: there are few steps in one.
  EngineConfig engine = {
      .max_batch_tokens = 512, .target_step_us = int64_t{3'600'000'000}, .max_sequences = 64, .steps_a_turn = 2};
};

// What lies below the engine, all of it real: pages, pool, seam, executor.
class ServingParts final {
 public:
  ServingParts(CausalLm* model, const EngineSetup& setup);

  const DType dtype;
  const std::unique_ptr<PagePool> pages;
  AdapterPool adapters;
  SlotSeam seam;
  SlotGraphSeam graph_seam;
  const std::unique_ptr<StepGraphs> graphs;  // may be null
  ModelExecutor executor;
  CountingObserver observer;
};

// The answer to an adapter command, once there is one.
using CommandAnswer = std::shared_ptr<std::optional<absl::Status>>;

// The engine without its thread, over real parts: a test takes the turns, and says when a loader's answer arrives. The
// schedule depends on nothing but what the test does.
class SteppedEngine final {
 public:
  // `model` outlives it.
  SteppedEngine(CausalLm* model, const std::string& model_dir, const EngineSetup& setup);
  ~SteppedEngine();

  // Loads of `path` give this image instead of a folder's; what readers refuse gets in this way.
  void AddImage(const std::string& path, std::shared_ptr<const AdapterImage> image) {
    images_[path] = std::move(image);
  }
  // Fills in id, arrival and sink.
  std::shared_ptr<Recording> Submit(Request request);
  void Cancel(RequestId request);
  CommandAnswer Load(const std::string& name, const std::string& path, bool replace = false);
  CommandAnswer Unload(const std::string& name);
  CommandAnswer HoldForTuning(int64_t bytes);
  RequestId last_request() const { return last_request_; }

  // One turn; the invariants of scheduler/invariants.h are checked after it and reported by gtest.
  bool Turn();
  // Waits until every job that the loader was given is answered, and hands one answer (`pick` modulo their number) to
  // the engine. False: there was none.
  bool DeliverLoaderEvent(uint64_t pick = 0);
  // Turns and deliveries until nothing is left to do. Reports by gtest when the engine is stuck.
  void RunUntilIdle();

  ManualClock& clock() { return clock_; }
  ServingParts& parts() { return parts_; }
  const SchedulerState& state() const { return core_->state(); }

 private:
  SchedulerParts PartsForCore();
  void StageImage(AdapterId id, std::shared_ptr<const AdapterImage> image);
  void OnLoaderEvent(LoaderEvent event);

  const std::unique_ptr<FileSource> files_;
  ServingParts parts_;
  ManualClock clock_;
  Inbox inbox_;
  std::unique_ptr<EngineCore> core_;
  RequestId last_request_ = 0;
  std::map<std::string, std::shared_ptr<const AdapterImage>> images_;

  std::mutex loader_mutex_;
  std::condition_variable loader_answered_;
  int64_t loader_jobs_ = 0;  // given and not yet in loader_events_
  std::vector<LoaderEvent> loader_events_;
  std::unique_ptr<AdapterLoader> loader_;  // last: its threads use what is above
};

// The daemon's engine on a thread of its own, over the same parts.
class ThreadedEngine final {
 public:
  ThreadedEngine(CausalLm* model, const std::string& model_dir, const EngineSetup& setup);
  ~ThreadedEngine();

  std::shared_ptr<Recording> Submit(Request request);
  absl::Status Load(const std::string& name, const std::string& path);  // waits for the answer
  // The engine's thread ends; what it counted may be read from then on. What runs is not answered.
  void Stop();
  Engine& engine() { return *engine_; }
  ServingParts& parts() { return parts_; }

 private:
  const std::unique_ptr<FileSource> files_;
  ServingParts parts_;
  SteadyClock clock_;
  Completions completions_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<AdapterLoader> loader_;
  std::thread thread_;
  std::atomic<RequestId> last_request_ = 0;
};

}  // namespace lorad
