#include "adapters/train/routed_places.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/moe_names.h"

namespace lorad {

std::vector<std::string> RoutedTargets(const MoeConfig& config, const BaseShape& base) {
  if (!config.targets.empty()) return config.targets;
  std::vector<std::string> names;
  for (const SiteShape& shape : base.sites) {
    if (IsOfFfn(shape.site) || IsOfAttention(shape.site)) names.push_back(LastName(shape.module_path));
  }
  return names;
}

absl::StatusOr<std::vector<RoutedPlace>> SelectRoutedPlaces(const MoeConfig& config, const BaseShape& base) {
  if (base.Find(Site::kRouter) != nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("adapter.kind: ", config.name, "; not supported on a base whose own layers have routed experts"));
  }
  std::vector<const SiteShape*> targets;
  for (const std::string& name : RoutedTargets(config, base)) {
    const SiteShape* shape = FindMoeTarget(base, name);
    if (shape == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter.targets: ", name.substr(0, 80), "; limit: last names of linears in the base's layers"));
    }
    if (std::find(targets.begin(), targets.end(), shape) == targets.end()) targets.push_back(shape);
  }
  std::vector<RoutedPlace> places;
  for (int32_t layer = 0; layer < base.num_layers; ++layer) {
    if (config.kind == MoeKind::kMixLora) {
      RoutedPlace ffn;
      ffn.path = MoeFfnPath(config.prefix, layer);
      ffn.layer = layer;
      ffn.in_features = base.hidden_size;
      ffn.routes = true;
      places.push_back(std::move(ffn));
    }
    for (const SiteShape* shape : targets) {
      RoutedPlace place;
      place.path = MoeProjectionPath(config.prefix, layer, *shape);
      place.site = shape->site;
      place.layer = layer;
      place.in_features = shape->in_features;
      place.out_features = shape->out_features;
      place.of_experts = HasExperts(config.kind, shape->site);
      place.routes = place.of_experts && config.kind != MoeKind::kMixLora;
      place.pairs = place.of_experts ? config.experts : 1;
      place.rank = place.of_experts ? config.expert : config.lora;
      places.push_back(std::move(place));
    }
  }
  return places;
}

}  // namespace lorad
