#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/observer.h"
#include "scheduler/snapshot.h"

namespace lorad {

struct MetricSeries;

// Counts what happens and writes it as Prometheus text (version 0.0.4). The vllm: names are those that dashboards and
// gateways read; their label model_name is the base's name. server/README.md lists all of them.
//
// Threads  the observer's functions on the engine thread, the rest from any. Whoever tells of something never waits for
//          a scrape: it is queued, and counted by the next one who finds the series free, the scrape itself at the
//          latest.
class Metrics final : public StepObserver {
 public:
  Metrics();
  ~Metrics() override;

  // Once, before the engine runs: the label model_name of all series, and the gauges of what never changes.
  void SetModel(const std::string& model_name, const std::string& version);

  // A request that ended in a status instead of an answer.
  void CountRefused(absl::StatusCode code);

  // The whole page. `snapshot` null: only what needs no engine. `unix_seconds` is the value of lora_requests_info.
  std::string Text(const EngineSnapshot* snapshot, double unix_seconds);

  void OnStep(const StepStats& step) override;
  void OnScheduled(int64_t queue_us) override;
  void OnFirstToken(int64_t first_token_us) override;
  void OnToken(const std::string& adapter, int64_t tokens, int64_t gap_us) override;
  void OnFinish(const SequenceStats& sequence) override;
  void OnAdapterLoaded(const std::string& name, LoadedFrom from, int64_t load_us) override;
  void OnAdapterLoadFailed(const std::string& name) override;
  void OnAdapterEvicted(const std::string& name) override;
  void OnPreempted(const std::string& adapter) override;

 private:
  friend class MetricsPeer;  // tests: holds the series as a scrape does
  using Told = std::function<void(MetricSeries*)>;

  void Tell(Told told);
  void CountToldIfFree();
  void CountTold();  // needs mutex_

  std::mutex told_mutex_;  // held for a push or a swap, never longer
  std::vector<Told> told_;
  std::mutex mutex_;                      // a scrape holds it; taken before told_mutex_
  std::unique_ptr<MetricSeries> series_;  // null before SetModel
};

}  // namespace lorad
