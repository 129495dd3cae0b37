#include "adapters/train/train_size.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "adapters/train/routed_places.h"
#include "adapters/train/trained_modules.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

struct Floats {
  int64_t trained = 0;
  int64_t constant = 0;
};

Floats FloatsOf(const TrainedModule& trained, const TrainConfig& config) {
  const SiteShape& shape = *trained.module.shape;
  Floats floats;
  if (trained.pair) {
    const int64_t pair = trained.module.rank * (shape.in_features + shape.out_features);
    floats.trained += pair;
    if (config.adapter.use_dora) floats.trained += shape.out_features;
    if (TakesOffBase(config.init)) floats.constant += pair;
  }
  if (trained.weight) floats.trained += shape.in_features * shape.out_features;  // of a norm: 1 x its width
  if (trained.bias) floats.trained += shape.out_features;
  if (!trained.tokens_are_tied) {
    const int64_t width = shape.site == Site::kEmbedTokens ? shape.out_features : shape.in_features;
    floats.trained += static_cast<int64_t>(trained.tokens.size()) * width;
  }
  return floats;
}

absl::StatusOr<Floats> FloatsOfAll(const TrainConfig& config, const BaseShape& base) {
  Floats all;
  if (config.routed.has_value()) {
    const MoeConfig& moe = config.routed->moe;
    ASSIGN_OR_RETURN(const std::vector<RoutedPlace> places, SelectRoutedPlaces(moe, base));
    for (const RoutedPlace& place : places) {
      if (place.routes) all.trained += moe.experts * place.in_features;
      all.trained += place.pairs * place.rank.rank * (place.in_features + place.out_features);
      if (place.rank.dora) all.trained += place.pairs * place.out_features;
    }
    return all;
  }
  using Selected = std::map<std::string, TrainedModule>;
  ASSIGN_OR_RETURN(const Selected selected, SelectTrained(config, base));
  for (const auto& [path, trained] : selected) {
    const Floats floats = FloatsOf(trained, config);
    all.trained += floats.trained;
    all.constant += floats.constant;
  }
  return all;
}

int64_t StatesOf(const OptimizerConfig& config) {
  if (config.kind == OptimizerKind::kAdamW) return 2;
  return config.momentum != 0 ? 1 : 0;
}

}  // namespace

absl::StatusOr<TrainSize> SizeOfTraining(const TrainConfig& config, const BaseShape& base) {
  ASSIGN_OR_RETURN(const Floats floats, FloatsOfAll(config, base));
  const int64_t of_each = 2 + StatesOf(config.optimizer);  // the weight and its gradient
  return TrainSize{floats.trained, (of_each * floats.trained + floats.constant) * static_cast<int64_t>(sizeof(float))};
}

int64_t RowCost(const TrainConfig& config) {
  if (!config.routed.has_value()) return 1;
  const MoeConfig& moe = config.routed->moe;
  return std::max<int64_t>(1, moe.routing.Choices(moe.experts));
}

}  // namespace lorad
