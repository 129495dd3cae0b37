#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "model/config.h"
#include "model/sites.h"

// What the launches of a captured step are prepared for (adapters/graph_seam.h). Torch-free.
namespace lorad {

constexpr uint64_t BitOf(Site site) { return uint64_t{1} << static_cast<unsigned>(site); }
static_assert(kNumSites <= 64);
inline constexpr uint64_t kExpertSites = BitOf(Site::kExpertGateUp) | BitOf(Site::kExpertDown);

// Where a step's adapters do something, and bounds of what they do there.
struct GraphFeatures {
  uint64_t adds = 0;         // a bit for each site where one adds
  uint64_t routes = 0;       // of them, those where one routes
  int64_t most_terms = 0;    // of a row; 0: nobody has an adapter, and nothing else is set
  int64_t most_ranks = 0;    // of a row in all its slots; a power of two
  int64_t most_experts = 0;  // of a slot that routes
  bool replaces_embedding = false;
  int64_t replaced_head_rows = 0;             // most of a slot; a power of two
  int64_t head_columns = 0;                   // with adapters' own tokens; 0: the base's
  int64_t routed_rows = 0;                    // that routers of an FFN deal: RoutedRowsBucket
  int64_t most_choices = 0;                   // of such a row
  std::optional<Activation> activation = {};  // of its experts, instead of the base's

  bool operator==(const GraphFeatures&) const = default;
};

// A number for each of them: graphs are found by these.
std::vector<int64_t> NumbersOf(const GraphFeatures& features);

// So many rows, and their pairs, are prepared for in a step of padded_rows where routers of an FFN deal `rows` > 0: 8,
// 64 or all. Products of so few wait for weights, whose rows nearly all of them need.
int64_t RoutedRowsBucket(int64_t rows, int64_t padded_rows);

// Features that grow, so that mixed traffic, each of whose steps needs a little more here and less there than the one
// before, has few graphs. Steps of one class share the most that any of them has needed lately.
//
// Two steps are of different classes where one would pay for what the other needs: whether somebody has an adapter at
// all; whether routers of an FFN deal rows, and to experts of which activation; whether an adapter routes at
// projections, replaces rows of the embedding or head, changes experts, or has more than kFewRanks for a row. What
// else differs costs blocks that find nothing to do and end.
//
// Lately: within the last lately_steps of the class, or up to twice as many. What raised a bound and is gone is paid
// for that long; an adapter that is evicted and read again and again lowers it once in so many steps at most, and then
// the graphs of before are mostly still there.
class FeatureFloors final {
 public:
  static constexpr int64_t kFewRanks = 64;

  explicit FeatureFloors(int64_t lately_steps = 4096) : lately_steps_(lately_steps) {}

  // What to prepare the next step for, which needs `needed`. routed_rows and the activation stay.
  GraphFeatures Raise(const GraphFeatures& needed);

 private:
  using Class = std::array<int64_t, 6>;
  struct Floor {
    GraphFeatures last = {};  // of so many steps
    GraphFeatures now = {};   // of those since
    int64_t steps = 0;        // of them
  };
  static Class ClassOf(const GraphFeatures& features);

  const int64_t lately_steps_;
  std::map<Class, Floor> floors_;
};

}  // namespace lorad
