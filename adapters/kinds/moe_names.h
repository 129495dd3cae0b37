#pragma once

#include <cstdint>
#include <string>

#include "model/sites.h"

namespace lorad {

// What MoE-PEFT calls modules and tensors: a module by its last name in the base ("gate_up_proj", "fc1"), below "mlp"
// or "self_attn". OPT's, which MoE-PEFT does not have, are named alike: "mixlora.layers.0.mlp.fc1".

inline constexpr char kMoeClassifier[] = "classifier";  // the tensor of a SEQ_CLS adapter's head

bool IsOfFfn(Site site);
bool IsOfAttention(Site site);

// The module of the base that takes LoRA and has this last name; nullptr: none.
const SiteShape* FindMoeTarget(const BaseShape& base, const std::string& name);

// "q_proj" of "model.layers.{}.self_attn.q_proj"
std::string LastName(const std::string& module_path);

// "mixlora.layers.0.mlp"
std::string MoeFfnPath(const std::string& prefix, int32_t layer);
// "mixlora.layers.0.mlp.gate_proj"
std::string MoeProjectionPath(const std::string& prefix, int32_t layer, const SiteShape& shape);

// The name that a tensor has today: "mixlora.layers.0.gate.weight" -> "mixlora.layers.0.mlp.moe_gate.weight".
std::string PresentMoeName(const std::string& name);

}  // namespace lorad
