#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "scheduler/observer.h"

namespace lorad {

class CountingObserver final : public StepObserver {
 public:
  void OnStep(const StepStats& step) override { steps.push_back(step); }
  void OnScheduled(int64_t queue_us) override { queue_times_us.push_back(queue_us); }
  void OnFirstToken(int64_t first_token_us) override { first_tokens_us.push_back(first_token_us); }
  void OnToken(const std::string& adapter, int64_t tokens, int64_t gap_us) override {
    tokens_by_adapter[adapter] += tokens;
  }
  void OnFinish(const SequenceStats& sequence) override { finished.push_back(sequence); }
  void OnAdapterLoaded(const std::string& name, LoadedFrom from, int64_t load_us) override {
    ++loaded;
    warm_loaded += from == LoadedFrom::kHost;
  }
  void OnAdapterLoadFailed(const std::string& name) override { ++load_failed; }
  void OnAdapterEvicted(const std::string& name) override { ++evicted; }
  void OnPreempted(const std::string& adapter) override { ++preempted; }

  std::vector<StepStats> steps;
  std::vector<int64_t> queue_times_us;
  std::vector<int64_t> first_tokens_us;
  std::map<std::string, int64_t> tokens_by_adapter;
  std::vector<SequenceStats> finished;
  int64_t loaded = 0;
  int64_t warm_loaded = 0;  // of them, from what the host kept
  int64_t load_failed = 0;
  int64_t evicted = 0;
  int64_t preempted = 0;
};

}  // namespace lorad
