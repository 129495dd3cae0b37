#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include <ATen/ops/empty.h>

#include "adapters/graph_seam.h"
#include "adapters/graph_tables.h"
#include "adapters/ops/tabled_routing.h"
#include "model/base/guarded.h"
#include "model/ops/dealt_experts.h"

// What a captured step has of experts: those of a routed base, and those that an adapter's router deals rows to.
namespace lorad {
namespace {

constexpr int32_t kMostRoutedExperts = 1024;  // of TabledRouting

}  // namespace

bool SlotGraphSeam::Routes(int32_t slot) const { return on_device_.Summary(slot).ffn_routers > 0; }

// False for what dealing on the device has no form for: experts by top-p, or more than a block has room for; layers
// without a router beside those with one; weights that do not sum to one where down has a bias; DoRA on down; several
// activations.
bool SlotGraphSeam::GatherRouted(const RowSegments& rows) {
  std::optional<std::optional<Activation>> activation;
  for (size_t g = 0; g + 1 < rows.starts.size(); ++g) {
    const SlotTerm* const routed = RoutedTerm(rows, g, [&](int32_t slot) { return Routes(slot); });
    if (routed == nullptr) continue;
    const RoutingRule& rule = slots_.RoutingOf(routed->slot);
    const SlotSummary& slot = on_device_.Summary(routed->slot);
    const bool sums_to_one = rule.renormalise || !down_has_bias_;
    if (rule.choice != RoutingRule::Choice::kTopK || slot.ffn_routers != num_layers_ || !sums_to_one ||
        slot.ffn_experts > kMostRoutedExperts || activation.value_or(rule.activation) != rule.activation) {
      return false;
    }
    for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t) {
      if (on_device_.Summary(rows.terms[static_cast<size_t>(t)].slot).scales_down) return false;
    }
    activation = rule.activation;
    features_.routed_rows += rows.starts[g + 1] - rows.starts[g];
    features_.most_choices = std::max<int64_t>(features_.most_choices, rule.top_k);
  }
  if (features_.routed_rows > 0) features_.routed_rows = RoutedRowsBucket(features_.routed_rows, padded_rows_);
  features_.activation = activation.value_or(std::nullopt);
  return true;
}

// Entries that nobody uses name no row.
std::vector<RoutedRow> SlotGraphSeam::RoutedTable(const RowSegments& rows,
                                                  const std::function<const SlotTerm*(size_t)>& routed) const {
  std::vector<RoutedRow> table;
  for (size_t g = 0; g + 1 < rows.starts.size(); ++g) {
    const SlotTerm* const term = routed(g);
    if (term == nullptr) continue;
    const RoutingRule& rule = slots_.RoutingOf(term->slot);
    for (int32_t r = rows.starts[g]; r < rows.starts[g + 1]; ++r) {
      table.push_back({r, term->slot, rule.top_k, rule.renormalise ? 1 : 0});
    }
  }
  table.resize(static_cast<size_t>(features_.routed_rows));
  return table;
}

// Tables of pairs: `ranks` of h for each.
TabledRows SlotGraphSeam::TableOfPairs(const at::Tensor& tiles, const at::Tensor& terms, int64_t ranks) const {
  TabledRows table = TableOfRows();
  table.tiles = static_cast<const RowTile*>(tiles.const_data_ptr());
  table.num_tiles = tiles.size(0);
  table.terms = static_cast<const SlotTerm*>(terms.const_data_ptr());
  table.h_floats = tiles.size(0) * ranks;
  return table;
}

const int32_t* SlotGraphSeam::TileOfRowThere() const {
  return reinterpret_cast<const int32_t*>(tables_ + PlacesOf(padded_rows_).tile_of_row);
}

bool SlotGraphSeam::FinishesDealt(int, const RowSegments&) { return true; }

// A pair for itself: which rows lie together is the device's to know.
at::Tensor SlotGraphSeam::FinishDealt(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const DealtRows& dealt,
                                      const at::Tensor& rows) {
  if ((features_.adds & BitOf(group.parts[0].site)) == 0) return y;
  const int64_t pairs = dealt.num_pairs();
  const auto bytes = at::TensorOptions().dtype(at::kByte).device(y.device());
  at::Tensor tiles = at::empty({pairs, sizeof(RowTile)}, bytes);
  at::Tensor terms = at::empty({pairs, features_.most_terms, sizeof(SlotTerm)}, bytes);
  ThrowIfError(TabledPairs({dealt, TableOfRows(), TileOfRowThere(), tiles, terms}));
  AddParts(group, x, TableOfPairs(tiles, terms, features_.most_ranks), rows, y);
  return y;
}

RowRouting SlotGraphSeam::RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) {
  if (features_.routed_rows == 0) return {&rows};
  auto routed = std::make_shared<RoutedRows>();
  routed->on_device = EmptyRouting(features_.routed_rows, features_.most_choices, features_.most_terms, x.device());
  if (features_.activation.has_value()) {
    const auto pairs = static_cast<int32_t>(features_.routed_rows * features_.most_choices);
    routed->activations.push_back({0, pairs, *features_.activation});
  }
  const auto* const table = reinterpret_cast<const RoutedRow*>(tables_ + PlacesOf(padded_rows_).routed);
  ThrowIfError(TabledRouting({x, on_device_.At(Site::kFfn, layer), table, features_.routed_rows, features_.most_choices,
                              RanksOfRow(), TableOfRows(), TileOfRowThere(), *routed->on_device}));
  return {&others_, std::move(routed)};
}

at::Tensor SlotGraphSeam::FinishPairs(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                      const at::Tensor& base_bias, const RoutedRows& routed, bool by_row) {
  const RoutedRows::OnDevice& on = *routed.on_device;
  AddParts(group, x, TableOfPairs(on.tiles, on.terms, RanksOfRow()), by_row ? on.input_rows : at::Tensor(), y);
  if (base_bias.defined()) y.add_(base_bias);
  return y;
}

}  // namespace lorad
