#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/train/example.h"
#include "scheduler/request.h"
#include "server/backend.h"

namespace lorad {

// Asks the engine as any client would, and waits for the answers: to try an adapter out before others get it.
//
// Threads  any but the engine's and the completions'.
// Errors   the engine's; Aborted with the engine's words for a request that was given up; DataLoss for a
//          log-probability that is not finite.
class Probe final {
 public:
  explicit Probe(const Backend* backend) : backend_(*backend) {}

  // Serves the folder under the name and returns when it can be named.
  absl::Status Load(const std::string& name, const std::string& folder, bool replace = true) const;
  void Unload(const std::string& name) const;

  // Greedy, at most `max_tokens`. `adapter` "": the base.
  absl::StatusOr<std::string> Answer(const std::string& adapter, const std::string& prompt, int64_t max_tokens) const;
  // The log-probability of each token but the first, [ids - 1].
  absl::StatusOr<std::vector<float>> Score(const std::string& adapter, const std::vector<int32_t>& ids) const;
  // The mean loss of the examples' learnt tokens, as an evaluation during training counts it.
  absl::StatusOr<double> Loss(const std::string& adapter, const ExampleSource& examples) const;

 private:
  struct Collected {
    std::vector<TokenLogprob> prompt;
    std::vector<int32_t> tokens;
  };
  absl::StatusOr<Collected> Ask(const std::string& adapter, std::vector<int32_t> ids, SamplingOptions sampling) const;

  const Backend& backend_;
};

}  // namespace lorad
