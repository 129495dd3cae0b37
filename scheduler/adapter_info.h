#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "adapters/expert_load.h"
#include "adapters/state.h"

namespace lorad {

class Tokenizer;

// One adapter as lists and replies show it; plain data, copied into the snapshot.
struct AdapterInfo {
  std::string name;
  std::string path;
  std::string kind;
  AdapterState state = AdapterState::kUnknown;
  int32_t rank_min = 0;
  int32_t rank_max = 0;
  int64_t bytes = 0;  // in the pool's form
  bool pinned = false;
  bool warm = false;  // kept packed in host memory: it is placed without being read
  std::string digest;
  std::vector<std::string> targets;
  int64_t running_requests = 0;
  int64_t waiting_requests = 0;
  std::vector<std::string> warnings;
  std::string error;                                     // state kFailed: why
  std::shared_ptr<const ExpertLoad> expert_load;         // of a routed adapter, else null; goes on counting
  std::shared_ptr<const Tokenizer> tokenizer = nullptr;  // its own; null: the base's
};

}  // namespace lorad
