#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/component/alone.h"
#include "tests/component/answer.h"
#include "tests/component/random_adapter.h"
#include "tests/support/engine_fixture.h"

namespace lorad {

// What happened in batches, so that a test can ask whether what it wants to prove ever came up.
struct BatchCounts {
  int64_t batches = 0;
  int64_t mixed_steps = 0;  // prompts and decoding in one step
  int64_t preemptions = 0;
  int64_t evictions = 0;
  int64_t replaced = 0;
  int64_t unloaded = 0;
  int64_t most_adapters = 0;                    // in one step
  int64_t cancelled = 0;                        // sequences that ended early
  int64_t poisoned = 0;                         // sequences that ended by their adapter's NaN
  int64_t cached_tokens = 0;                    // of prompts that were found computed
  std::map<std::string, int64_t> device_steps;  // by DeviceStep::how
};

// Where batches run; the CPU, if nothing is said.
struct BatchDevice {
  CausalLm* model = nullptr;  // the base on the device; outlives the batch
  DeviceMemory memory = {};
  std::optional<StepGraphs::Options> graphs = {};
};

// One seeded batch: requests of all sorts arrive at an engine with little memory and small steps, are cancelled or run
// out of time, while adapters are loaded, evicted, replaced and unloaded. Then each is compared with the same request
// alone.
class RandomBatch final {
 public:
  // `folders`: adapters of the base to choose from.
  RandomBatch(const std::string& base, const std::vector<std::string>& folders, uint64_t seed, AloneRunner* alone,
              const BatchDevice& device = {});

  void Run(BatchedEqualsAlone* compared, BatchCounts* counts);

 private:
  struct Adapter {
    std::string name;
    std::string path;       // what requests get; "" = not loaded
    std::string next_path;  // of a replacement under way
    CommandAnswer load, replacement;
  };
  struct Live {
    Request request;
    RequestId id = 0;
    std::shared_ptr<Recording> recording;
    std::vector<std::string> paths;  // what may serve it, one of them throughout
    Adapter* adapter = nullptr;
    bool may_end_early = false;
    bool may_be_refused = false;  // its adapter was unloaded before anybody knew it
  };

  EngineSetup RandomSetup();
  Request RandomRequest();
  std::vector<int32_t> PromptOf(int64_t tokens);
  void Invoke(std::vector<int32_t>* prompt);  // puts the tokens in that make an aLoRA active
  const std::string& AnyPath();
  void Submit();
  void CancelOne();
  void ChangeAdapter();
  void Unload(Adapter* adapter);
  void NoteAnswers();
  bool Finished() const;
  void ExpectEmpty();
  void Check(const Live& live, BatchedEqualsAlone* compared, BatchCounts* counts);

  const std::string base_;
  AloneRunner* const alone_;
  Rng rng_;
  const int64_t vocab_;
  std::vector<std::string> paths_;
  std::vector<std::vector<int32_t>> beginnings_;  // of prompts that begin alike
  std::string nan_path_;                          // "" = none in this batch
  std::unique_ptr<SteppedEngine> engine_;
  std::vector<std::unique_ptr<Adapter>> adapters_;
  std::vector<Request> to_come_;
  std::vector<Live> live_;
  double arrivals_ = 0.0;  // requests a turn
  double churn_ = 0.0;     // adapter commands a turn
  int64_t replaced_ = 0;
  int64_t unloaded_ = 0;
};

}  // namespace lorad
