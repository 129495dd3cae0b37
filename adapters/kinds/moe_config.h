#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "adapters/kinds/kind.h"
#include "adapters/routing.h"
#include "model/sites.h"

namespace lorad {

// The kinds of MoE-PEFT that route rows to experts.
enum class MoeKind : uint8_t {
  kMixLora,  // one router for a layer's FFN
  kLoraMoe,  // one for each projection of the FFN, all experts weighted
  kMola,     // one for each projection, also of the attention; the best few experts
};

// Whether an adapter of this kind has a pair for each expert at a projection of the base's layers; else it has one for
// all rows there.
bool HasExperts(MoeKind kind, Site projection);

// A routing_strategy of adapter_config.json.
struct MoeStrategy {
  absl::string_view written;  // as the config says it
  MoeKind kind;
  const char* name;    // of today
  const char* prefix;  // of the tensors' names
};
const MoeStrategy* FindMoeStrategy(absl::string_view written);  // nullptr: there is none
const char* MoePeftType(MoeKind kind);                          // peft_type: "MIXLORA"

// What a configuration or a job may say of routing, and what it means where it says nothing.
inline constexpr int32_t kMaxMoeExperts = 256;
inline constexpr double kMaxRouterTemperature = 1e6;
inline constexpr double kDefaultTopP = 0.8;
inline constexpr int32_t kDefaultTopK = 2;
inline constexpr int32_t kDefaultExpertCapacity = 32;  // of mixlora-switch; at most INT32_MAX

// Rank and scale of a LoRA, and whether it is DoRA.
struct MoeRank {
  int64_t rank = 0;
  float scale = 1.0f;
  bool dora = false;
};

// MoE-PEFT's configuration as far as it changes an answer; every key that is not here was checked to change nothing.
struct MoeConfig {
  MoeKind kind = MoeKind::kMixLora;
  std::string name;    // "mixlora", "mixlora-dynamic", "mixlora-switch", "loramoe", "mola"
  std::string prefix;  // of the tensors' names: "mixlora"
  MoeRank lora;        // of what is not routed
  MoeRank expert;      // of each expert
  int32_t experts = 0;
  RoutingRule routing;
  std::vector<std::string> targets;  // names of modules: "q_proj"
  std::vector<std::string> warnings;
};

// Whether adapter_config.json names one of these kinds.
bool IsMoeConfig(const AdapterConfigJson& json);

// Errors   Unimplemented, naming key and value, for what would change the maths; InvalidArgument for a value that
//          cannot be.
// Source   MoE-PEFT 2.0.2, adapters/*/config.py and common/config.py, with their defaults; the older routing_strategy
//          "mixtral" is mixlora.
absl::StatusOr<MoeConfig> ParseMoeConfig(const AdapterConfigJson& json);

}  // namespace lorad
