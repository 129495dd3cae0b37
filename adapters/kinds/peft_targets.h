#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/kinds/peft_config.h"
#include "model/sites.h"

namespace lorad {

// A module of the base that a config targets, with what the config says of it.
struct TargetedModule {
  const SiteShape* shape = nullptr;
  int32_t layer = -1;
  int64_t rank = 0;
  float scale = 1.0f;
  // Blocks of a block-diagonal A or B, which is stored without its zeros: A [rank, in / blocks], B [out, rank /
  // blocks].
  int64_t a_blocks = 1;
  int64_t b_blocks = 1;
};

// Targeted modules by the path that the file's tensors have ("model.layers.0.self_attn.q_proj"). Of two targeted
// parameters of one module, PEFT wraps the first one first: its path ends with ".base_layer". `base` must outlive the
// result.
//
// Errors   InvalidArgument for an expression that is broken, a target that matches nothing, or a scale that is not
//          finite; Unimplemented, naming the expression, for look-around and back references: no matcher in linear time
//          has them.
// Source   peft 0.21.2, check_target_module_exists and _inject_parameters of tuners/tuners_utils.py, get_pattern_key of
//          utils/other.py.
absl::StatusOr<std::map<std::string, TargetedModule>> SelectTargets(const PeftLoraConfig& config,
                                                                    const BaseShape& base);

// Every module of the base that an adapter can change, norms too, by path.
std::map<std::string, TargetedModule> AllModules(const BaseShape& base);
// Those and the targets, some of which are parameters.
std::map<std::string, TargetedModule> AllModulesAnd(const std::map<std::string, TargetedModule>& targets,
                                                    const BaseShape& base);

}  // namespace lorad
