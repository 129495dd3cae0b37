#include "adapters/train/adapter_folder.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/config_text.h"
#include "adapters/kinds/moe_config.h"
#include "adapters/kinds/moe_names.h"
#include "adapters/kinds/moe_peft_writer.h"
#include "adapters/train/peft_folder.h"
#include "adapters/train/synced_file.h"
#include "adapters/train/tensor_file.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

// Of those modules that experts have, or all rows.
std::optional<MoeRank> RankOf(const AdapterLeaves& leaves, bool of_experts) {
  for (const LeafModule& module : leaves.modules()) {
    if (module.a.defined() && (module.expert >= 0) == of_experts) {
      return MoeRank{module.a.size(0), module.scale, module.magnitude.defined()};
    }
  }
  return std::nullopt;
}

std::vector<std::string> TargetsOf(const AdapterLeaves& leaves) {
  std::vector<std::string> targets;
  for (const LeafModule& module : leaves.modules()) {
    const std::string name = LastName(module.path);
    if (module.a.defined() && std::find(targets.begin(), targets.end(), name) == targets.end()) targets.push_back(name);
  }
  return targets;
}

// With what MoE-PEFT reads for training and does not write itself.
std::string MoeConfigText(const TrainConfig& config, const AdapterLeaves& leaves, const std::string& base_name) {
  const RoutedTraining& routed = *config.routed;
  const MoeStrategy* strategy = FindMoeStrategy(routed.moe.name);
  LORAD_CHECK(strategy != nullptr);
  AdapterConfigJson json =
      MoeConfigJson(*strategy, routed.moe.routing, routed.moe.experts, RankOf(leaves, /*of_experts=*/false),
                    RankOf(leaves, /*of_experts=*/true), TargetsOf(leaves));
  json["base_model_name_or_path"] = base_name;
  json["lora_dropout"] = std::max(config.dropout, kNoMoeDropout);
  if (json.contains("expert_lora"))
    json["expert_lora"]["lora_dropout"] = std::max(routed.expert_dropout, kNoMoeDropout);
  json["router_init_range"] = routed.router_init_range;
  if (routed.moe.kind == MoeKind::kLoraMoe) return ConfigText(json);
  json["router_loss"] = routed.has_loss();
  json["router_aux_loss_coef"] = routed.aux_loss_coef;
  if (routed.moe.kind == MoeKind::kMixLora) json["jitter_noise"] = routed.jitter_noise;
  if (routed.is_switch()) {
    json["router_z_loss_coef"] = routed.z_loss_coef;
    json["expert_capacity"] = routed.expert_capacity;
  }
  return ConfigText(json);
}

absl::Status WriteMoeFolder(const std::string& dir, const TrainConfig& config, const AdapterLeaves& leaves,
                            const std::string& base_name, const std::map<std::string, std::string>& provenance) {
  NamedTensors tensors;
  for (const NamedLeaf& leaf : leaves.Saved()) tensors.emplace_back(leaf.name, leaf.tensor);
  RETURN_IF_ERROR(SaveTorchTensors(absl::StrCat(dir, "/adapter_model.bin"), tensors));
  if (!provenance.empty()) {
    RETURN_IF_ERROR(WriteSyncedFile(absl::StrCat(dir, "/provenance.json"), ConfigText(provenance)));
  }
  return WriteSyncedFile(absl::StrCat(dir, "/adapter_config.json"), MoeConfigText(config, leaves, base_name));
}

}  // namespace

absl::Status WriteAdapterFolder(const std::string& dir, const TrainConfig& config, const AdapterLeaves& leaves,
                                const std::string& base_name, const std::map<std::string, std::string>& provenance) {
  if (config.routed.has_value()) return WriteMoeFolder(dir, config, leaves, base_name, provenance);
  return WritePeftFolder(dir, config, leaves, base_name, provenance);
}

}  // namespace lorad
