#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "scheduler/request.h"

namespace lorad {

// How a step ran on a device that captures steps.
struct DeviceStep {
  std::string_view how = {};  // "replayed", "captured", or why neither; empty: nothing is captured there
  int64_t graphs = 0;         // held
  int64_t graph_bytes = 0;    // of the device's memory, for them
};

struct StepStats {
  int64_t rows_tokens = 0;     // tokens computed
  int64_t prefill_tokens = 0;  // of them, of prompts
  int64_t sequences = 0;
  int64_t distinct_adapters = 0;
  bool behind = false;  // planned and launched while the step before it ran
  int64_t plan_us = 0;
  int64_t execute_us = 0;
  int64_t commit_us = 0;
  DeviceStep device = {};
};

// One finished sequence. Times in microseconds; -1 = never got there.
struct SequenceStats {
  std::string adapter;
  FinishReason reason = FinishReason::kStop;
  bool begun = true;
  absl::StatusCode code = absl::StatusCode::kOk;
  bool late = false;  // not begun, because its first token would have come after the limit (slo_first_token_us)
  Usage usage;
  int64_t queue_us = -1;        // arrival -> first scheduled
  int64_t first_token_us = -1;  // arrival -> first token
  int64_t end_to_end_us = -1;
};

// Where an adapter's weights came from as they were placed in the pool.
enum class LoadedFrom : uint8_t {
  kDisk,  // read, checked and packed
  kHost,  // copied from what the host keeps (EngineConfig::host_adapter_bytes)
};

// Told of what happened when it happens, on the engine thread: implementations only count.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  virtual void OnStep(const StepStats& step) = 0;
  // A sequence was scheduled for the first time, so long after its arrival.
  virtual void OnScheduled(int64_t queue_us) = 0;
  // A sequence got its first token, so long after its arrival; OnToken follows.
  virtual void OnFirstToken(int64_t first_token_us) = 0;
  // A sequence got tokens: `gap_us` since its previous token (or -1 for its first).
  virtual void OnToken(const std::string& adapter, int64_t tokens, int64_t gap_us) = 0;
  virtual void OnFinish(const SequenceStats& sequence) = 0;
  virtual void OnAdapterLoaded(const std::string& name, LoadedFrom from, int64_t load_us) = 0;
  virtual void OnAdapterLoadFailed(const std::string& name) = 0;
  virtual void OnAdapterEvicted(const std::string& name) = 0;
  virtual void OnPreempted(const std::string& adapter) = 0;
};

}  // namespace lorad
