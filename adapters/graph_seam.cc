#include "adapters/graph_seam.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "adapters/graph_tables.h"
#include "model/base/check.h"
#include "model/base/guarded.h"
#include "model/base/round_up.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

constexpr int kNoLayer = -1;
constexpr int64_t kRanksBorder = 8;        // of a slot's, as its blocks have them
constexpr int64_t kMostPartsOfAGroup = 3;  // q|k|v
constexpr int64_t kAlignment = 16;

int64_t PowerOfTwo(int64_t n) { return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n))); }
int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

template <typename T>
void Put(const std::vector<T>& values, int64_t at, std::vector<std::byte>* tables) {
  const size_t bytes = values.size() * sizeof(T);
  LORAD_CHECK_LE(static_cast<size_t>(at) + bytes, tables->size());
  if (bytes > 0) std::memcpy(tables->data() + at, values.data(), bytes);
}

bool EverySegment(size_t) { return true; }

at::Tensor EmptyH(const TabledRows& table, int64_t most_experts, const at::Tensor& beside) {
  return at::empty({HFloats(table, most_experts)}, at::TensorOptions().dtype(at::kFloat).device(beside.device()));
}

std::unique_ptr<SideStream> SideStreamOf(at::Device device) {
  const auto make = InstalledCudaOps().new_side_stream;
  return device.is_cpu() || make == nullptr ? nullptr : make();
}

// Also behind a throw: nothing may still be written beside when its memory is somebody else's.
class JoinAtEnd final {
 public:
  explicit JoinAtEnd(SideStream& side) : side_(side) {}
  ~JoinAtEnd() { side_.Join().IgnoreError(); }  // an error is the device's, which has it for the next launch as well
  JoinAtEnd(const JoinAtEnd&) = delete;
  JoinAtEnd& operator=(const JoinAtEnd&) = delete;

 private:
  SideStream& side_;
};

bool HasBias(const BaseShape& shape, Site site) {
  const SiteShape* const of = shape.Find(site);
  return of != nullptr && of->has_bias;
}

}  // namespace

SlotGraphSeam::SlotGraphSeam(const SlotTable& slots, const BaseShape& shape, at::Device device)
    : slots_(slots),
      num_layers_(shape.num_layers),
      down_has_bias_(HasBias(shape, Site::kDownProj)),
      on_device_(slots, shape, device),
      side_(SideStreamOf(device)) {}

std::string_view SlotGraphSeam::Gather(const RowSegments& rows) {
  features_ = {};
  for (const SlotTerm& term : rows.terms) {
    LORAD_CHECK(term.slot >= 0 && term.slot < slots_.slots());  // a lease holds its slot for the whole step
    on_device_.Refresh(term.slot);
    const SlotSummary& slot = on_device_.Summary(term.slot);
    if (slot.replaces_norms) return "replaced_norms";
    features_.adds |= slot.adds;
    features_.routes |= slot.routes;
    features_.most_experts = std::max<int64_t>(features_.most_experts, slot.most_experts);
  }
  if (rows.base_only()) return "";
  if (!GatherRouted(rows)) return "routed_adapter";
  for (size_t g = 0; g + 1 < rows.starts.size(); ++g) {
    features_.most_terms = std::max<int64_t>(features_.most_terms, rows.term_starts[g + 1] - rows.term_starts[g]);
    int64_t ranks = 0;
    for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t) {
      ranks += RoundUp(on_device_.Summary(rows.terms[static_cast<size_t>(t)].slot).most_ranks, kRanksBorder);
    }
    features_.most_ranks = std::max(features_.most_ranks, ranks);
  }
  features_.most_ranks = PowerOfTwo(std::max(features_.most_ranks, kRanksBorder));
  const SlotWeights* const embedding = slots_.At(Site::kEmbedTokens, kNoLayer);
  const SlotWeights* const head = slots_.At(Site::kLmHead, kNoLayer);
  if (MostReplacements(rows, embedding) > 1 || MostReplacements(rows, head) > 1) return "replacements";
  for (const SlotTerm& term : rows.terms) {
    features_.replaces_embedding |= embedding[term.slot].replaces();
    if (!head[term.slot].replaces()) continue;
    const int64_t replaced = head[term.slot].num_rows;
    features_.replaced_head_rows = std::max(features_.replaced_head_rows, PowerOfTwo(replaced));
    const int64_t columns = head[term.slot].end_of_rows;
    if (columns > slots_.vocab_size()) features_.head_columns = std::max(features_.head_columns, columns);
  }
  return "";
}

SlotGraphSeam::Places SlotGraphSeam::PlacesOf(int64_t padded_rows) const {
  Places places;
  if (features_.most_terms == 0) return places;
  const auto after = [](int64_t begin, int64_t count, size_t bytes) {
    return Aligned(begin + count * static_cast<int64_t>(bytes));
  };
  places.terms = after(places.tiles, padded_rows, sizeof(RowTile));
  places.embedding = after(places.terms, padded_rows * features_.most_terms, sizeof(SlotTerm));
  places.head = after(places.embedding, features_.replaces_embedding ? padded_rows : 0, sizeof(ReplacedTile));
  places.tile_of_row = after(places.head, features_.replaced_head_rows > 0 ? padded_rows : 0, sizeof(ReplacedTile));
  places.routed = after(places.tile_of_row, NeedsTileOfRow() ? padded_rows : 0, sizeof(int32_t));
  places.others = after(places.routed, features_.routed_rows, sizeof(RoutedRow));
  places.end = after(places.others, features_.routed_rows > 0 ? padded_rows : 0, sizeof(RowTile));
  return places;
}

GraphStep SlotGraphSeam::Plan(const RowSegments& rows, int64_t padded_rows) {
  LORAD_CHECK(rows.rows() <= padded_rows && rows.input_rows.empty());
  GraphStep step;
  padded_rows_ = padded_rows;
  step.eager = Gather(rows);
  if (!step.eager.empty()) return step;
  features_ = floors_.Raise(features_);
  step.features = NumbersOf(features_);
  const Places places = PlacesOf(padded_rows);
  // What nobody uses stays zero: tiles of no rows.
  step.tables.resize(static_cast<size_t>(places.end));
  if (features_.most_terms == 0) return step;
  const std::vector<RowTile> tiles = TilesOf(rows, RanksOfRow(), &EverySegment);
  Put(tiles, places.tiles, &step.tables);
  Put(rows.terms, places.terms, &step.tables);
  if (features_.replaces_embedding) {
    Put(ReplacedTilesOf(rows, slots_.At(Site::kEmbedTokens, kNoLayer)), places.embedding, &step.tables);
  }
  if (features_.replaced_head_rows > 0) {
    Put(ReplacedTilesOf(rows, slots_.At(Site::kLmHead, kNoLayer)), places.head, &step.tables);
  }
  if (NeedsTileOfRow()) Put(TileOfRow(tiles, padded_rows), places.tile_of_row, &step.tables);
  if (features_.routed_rows > 0) {
    const auto routed = [&](size_t g) { return RoutedTerm(rows, g, [&](int32_t slot) { return Routes(slot); }); };
    Put(RoutedTable(rows, routed), places.routed, &step.tables);
    Put(TilesOf(rows, RanksOfRow(), [&](size_t g) { return routed(g) == nullptr; }), places.others, &step.tables);
  }
  return step;
}

bool SlotGraphSeam::NeedsTileOfRow() const { return (features_.adds & kExpertSites) != 0 || features_.routed_rows > 0; }

void SlotGraphSeam::ReadTablesAt(const std::byte* on_device) { tables_ = on_device; }

// Of h: the same for every group, so that one table of tiles serves all of them.
int64_t SlotGraphSeam::RanksOfRow() const { return features_.most_ranks * kMostPartsOfAGroup; }

TabledRows SlotGraphSeam::TableOfRows() const {
  const Places places = PlacesOf(padded_rows_);
  const auto at = [&](int64_t offset) { return tables_ == nullptr ? nullptr : tables_ + offset; };
  TabledRows table;
  table.tiles = reinterpret_cast<const RowTile*>(at(places.tiles));
  table.num_tiles = padded_rows_;
  table.terms = reinterpret_cast<const SlotTerm*>(at(places.terms));
  table.most_terms = features_.most_terms;
  table.most_ranks = features_.most_ranks;
  table.h_floats = padded_rows_ * RanksOfRow();
  return table;
}

SlotGraphSeam::AddedParts SlotGraphSeam::PartsOf(const SiteGroup& group) const {
  LORAD_CHECK(std::ssize(group.parts) <= kMostPartsOfAGroup);
  AddedParts of;
  for (const SitePart& part : group.parts) {
    if ((features_.adds & BitOf(part.site)) == 0) continue;
    if ((features_.routes & BitOf(part.site)) != 0) of.most_experts = features_.most_experts;
    of.parts.push_back({on_device_.At(part.site, group.layer), part.first_column, part.columns});
  }
  return of;
}

TabledRows SlotGraphSeam::TableFor(const RowSegments& rows) const {
  TabledRows table = TableOfRows();
  if (&rows == &others_) table.tiles = reinterpret_cast<const RowTile*>(tables_ + PlacesOf(padded_rows_).others);
  return table;
}

at::Tensor SlotGraphSeam::WithReplacedHead(const SiteGroup& group, const at::Tensor& x, at::Tensor y) const {
  if (group.parts[0].site != Site::kLmHead || features_.replaced_head_rows == 0) return y;
  if (features_.head_columns > y.size(1)) {
    at::Tensor wide = at::zeros({y.size(0), features_.head_columns}, y.options());
    wide.narrow(1, 0, y.size(1)).copy_(y);
    y = wide;
  }
  const auto* const tiles = reinterpret_cast<const ReplacedTile*>(tables_ + PlacesOf(padded_rows_).head);
  ThrowIfError(TabledReplacedHead({x, y, tiles, padded_rows_, features_.replaced_head_rows}));
  return y;
}

at::Tensor SlotGraphSeam::FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                       const at::Tensor& base_bias, const RowSegments& rows) {
  y = WithReplacedHead(group, x, std::move(y));
  AddParts(group, x, TableFor(rows), at::Tensor(), y);
  if (base_bias.defined()) y.add_(base_bias);
  return y;
}

// h beside the base's product, which waits for memory that has nothing to do with h.
at::Tensor SlotGraphSeam::ForwardLinear(const SiteGroup& group, const at::Tensor& x,
                                        absl::FunctionRef<at::Tensor()> base, const at::Tensor& base_bias,
                                        const RowSegments& rows) {
  const AddedParts of = PartsOf(group);
  if (of.parts.empty() || side_ == nullptr) return FinishLinear(group, x, base(), base_bias, rows);
  const TabledRows table = TableFor(rows);
  at::Tensor h = EmptyH(table, of.most_experts, x);
  const auto y_of_base = [&] {
    const JoinAtEnd join(*side_);
    ThrowIfError(side_->Queue([&] { return TabledShrink({x, h, of.parts, of.most_experts, table}); }));
    return base();
  };
  at::Tensor y = WithReplacedHead(group, x, y_of_base());
  ThrowIfError(TabledExpand({h, y, of.parts, table}));
  if (base_bias.defined()) y.add_(base_bias);
  return y;
}

void SlotGraphSeam::AddParts(const SiteGroup& group, const at::Tensor& x, const TabledRows& table,
                             const at::Tensor& input_rows, at::Tensor& y) const {
  const AddedParts of = PartsOf(group);
  if (of.parts.empty()) return;
  at::Tensor h = EmptyH(table, of.most_experts, x);
  ThrowIfError(TabledShrink({x, h, of.parts, of.most_experts, table, input_rows}));
  ThrowIfError(TabledExpand({h, y, of.parts, table}));
}

at::Tensor SlotGraphSeam::FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments&) {
  if (features_.replaces_embedding) {
    const auto* const tiles = reinterpret_cast<const ReplacedTile*>(tables_ + PlacesOf(padded_rows_).embedding);
    ThrowIfError(TabledReplacedEmbedding({ids, raw, tiles, padded_rows_}));
  }
  if ((features_.adds & BitOf(Site::kEmbedTokens)) != 0) {
    const SlotWeights* const slots = on_device_.At(Site::kEmbedTokens, kNoLayer);
    ThrowIfError(TabledEmbedding({ids, raw, slots, slots_.vocab_size(), TableOfRows()}));
  }
  return raw;
}

const NormOverride* SlotGraphSeam::Norm(int, Site, const RowSegments&) { return nullptr; }

}  // namespace lorad
