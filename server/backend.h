#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/text/tokenizer.h"
#include "scheduler/clock.h"
#include "scheduler/engine.h"
#include "server/log.h"
#include "server/long_texts.h"
#include "server/metrics/metrics.h"
#include "server/model_facts.h"
#include "server/stream_pump.h"
#include "server/unread_answers.h"

namespace lorad {

namespace v1 {
class Adapter;
}
class Merger;
class Tuning;

// What answers calls once the model is there. Everything outlives the gRPC server; const after it was published.
struct Backend {
  Engine* engine = nullptr;
  std::shared_ptr<const Tokenizer> tokenizer;  // null: the model's folder has none, and only token ids can be used
  ModelFacts model;
  std::vector<std::string> adapter_roots;  // the folder of --adapter-root, really and as it was given; none: any path
  StreamPump* pump = nullptr;
  LongTexts* long_texts = nullptr;
  UnreadAnswers* unread = nullptr;
  const Clock* clock = nullptr;
  Merger* merger = nullptr;
  std::function<int64_t()> step_waits_us;  // for how long the engine has waited for a device; 0: it does not
  Tuning* tuning = nullptr;                // null: no --state-dir, no fine-tuning
  // Revisions of what was trained here, as Tuning has them; empty where that is null.
  std::function<void(const std::string& name, const std::string& revision, AdapterReply reply)> rollback;
  std::function<void(v1::Adapter* adapter)> fill_revisions;
};

// What calls end with that come too late, or that nobody waits for any more.
absl::Status DrainingError();
absl::Status CancelledByCaller();

// Where services find the backend: the port answers from the start, so that a port in use is told before a long load,
// and a health check sees NOT_SERVING instead of nothing.
class Readiness final {
 public:
  // Unavailable while loading and once draining.
  absl::StatusOr<const Backend*> Get() const;
  // Also while draining: for calls that only look.
  absl::StatusOr<const Backend*> GetToRead() const;

  void Publish(const Backend* backend);
  void StartDraining();

 private:
  mutable std::mutex mutex_;
  const Backend* backend_ = nullptr;
  bool draining_ = false;
};

}  // namespace lorad
