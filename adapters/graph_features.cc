#include "adapters/graph_features.h"

#include <algorithm>

namespace lorad {
namespace {

int64_t NumberOf(std::optional<Activation> activation) {
  return activation.has_value() ? static_cast<int64_t>(*activation) : -1;
}

// `features`, and what the other needs beyond them.
GraphFeatures Raised(GraphFeatures features, const GraphFeatures& other) {
  const auto raise = [](int64_t& to, int64_t by) { to = std::max(to, by); };
  features.adds |= other.adds;
  features.routes |= other.routes;
  raise(features.most_terms, other.most_terms);
  raise(features.most_ranks, other.most_ranks);
  raise(features.most_experts, other.most_experts);
  features.replaces_embedding |= other.replaces_embedding;
  raise(features.replaced_head_rows, other.replaced_head_rows);
  raise(features.head_columns, other.head_columns);
  raise(features.most_choices, other.most_choices);
  return features;
}

}  // namespace

std::vector<int64_t> NumbersOf(const GraphFeatures& features) {
  return {static_cast<int64_t>(features.adds),
          static_cast<int64_t>(features.routes),
          features.most_terms,
          features.most_ranks,
          features.most_experts,
          features.replaces_embedding ? 1 : 0,
          features.replaced_head_rows,
          features.head_columns,
          features.routed_rows,
          features.most_choices,
          NumberOf(features.activation)};
}

int64_t RoutedRowsBucket(int64_t rows, int64_t padded_rows) {
  for (const int64_t bucket : {8, 64}) {
    if (rows <= bucket) return std::min(bucket, padded_rows);
  }
  return padded_rows;
}

FeatureFloors::Class FeatureFloors::ClassOf(const GraphFeatures& features) {
  return {features.routed_rows > 0,
          NumberOf(features.activation),
          features.routes != 0,
          features.replaces_embedding || features.replaced_head_rows > 0,
          (features.adds & kExpertSites) != 0,
          features.most_ranks > kFewRanks};
}

GraphFeatures FeatureFloors::Raise(const GraphFeatures& needed) {
  if (needed.most_terms == 0) return needed;
  Floor& floor = floors_[ClassOf(needed)];
  if (floor.steps == lately_steps_) floor = {.last = floor.now};
  ++floor.steps;
  floor.now = Raised(needed, floor.now);
  return Raised(floor.now, floor.last);
}

}  // namespace lorad
