#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/kinds/moe_config.h"
#include "model/sites.h"

namespace lorad {

// One place of an adapter with routers that has tensors of its own.
struct RoutedPlace {
  std::string path;  // of its tensors: "mixlora.layers.0.mlp.gate_proj"
  Site site = Site::kFfn;
  int32_t layer = -1;
  int64_t in_features = 0;
  int64_t out_features = 0;
  bool routes = false;  // has a router [experts, in_features]
  int32_t pairs = 0;
  bool of_experts = false;  // each pair is one's; else every row has it
  MoeRank rank;             // of each pair
};

// Where MoE-PEFT puts tensors, router before experts. Errors: InvalidArgument for a target that is no module's last
// name; Unimplemented on a base whose own layers have routed experts.
absl::StatusOr<std::vector<RoutedPlace>> SelectRoutedPlaces(const MoeConfig& config, const BaseShape& base);

// The last names of the modules that `config` targets: those it names, else every linear of the layers.
std::vector<std::string> RoutedTargets(const MoeConfig& config, const BaseShape& base);

}  // namespace lorad
