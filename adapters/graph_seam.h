#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/container/inlined_vector.h"
#include "adapters/device_slots.h"
#include "adapters/graph_features.h"
#include "adapters/ops/routed_row.h"
#include "adapters/ops/tabled_rows.h"
#include "adapters/slot_table.h"
#include "model/graph_seam.h"
#include "model/ops/side_stream.h"

namespace lorad {

// SlotSeam for captured launches: which slots the rows have lies in tables of the step, what a slot has in
// DeviceSlots. A step's features are the sites where its adapters do something and bounds of what they do there, raised
// to what other steps of its class have needed lately (FeatureFloors): its tables are laid out by these, what it does
// not need of them stays zero, and launches find nothing to do there.
//
// Not for adapters that deal the rows of an FFN to experts by top-p, which the host plans, nor for those that replace a
// norm's weights. Threads  as GraphSeam; `slots` outlives it.
class SlotGraphSeam final : public GraphSeam {
 public:
  SlotGraphSeam(const SlotTable& slots, const BaseShape& shape, at::Device device);

  GraphStep Plan(const RowSegments& rows, int64_t padded_rows) override;
  void ReadTablesAt(const std::byte* on_device) override;
  int64_t generation() const override { return on_device_.generation(); }

  at::Tensor FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const at::Tensor& base_bias,
                          const RowSegments& rows) override;
  at::Tensor ForwardLinear(const SiteGroup& group, const at::Tensor& x, absl::FunctionRef<at::Tensor()> base,
                           const at::Tensor& base_bias, const RowSegments& rows) override;
  bool FinishesDealt(int layer, const RowSegments& rows) override;
  at::Tensor FinishDealt(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const DealtRows& dealt,
                         const at::Tensor& rows) override;
  RowRouting RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) override;
  at::Tensor FinishPairs(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const at::Tensor& base_bias,
                         const RoutedRows& routed, bool by_row) override;
  at::Tensor FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) override;
  const NormOverride* Norm(int layer, Site site, const RowSegments& rows) override;

 private:
  // Where the step's tables begin, in bytes.
  struct Places {
    int64_t tiles = 0, terms = 0, embedding = 0, head = 0, tile_of_row = 0, routed = 0, others = 0, end = 0;
  };

  std::string_view Gather(const RowSegments& rows);  // what it needs, into features_; why it cannot be captured
  bool GatherRouted(const RowSegments& rows);        // the same of routers of FFNs; false: it cannot
  bool Routes(int32_t slot) const;
  bool NeedsTileOfRow() const;
  std::vector<RoutedRow> RoutedTable(const RowSegments& rows,
                                     const std::function<const SlotTerm*(size_t)>& routed) const;
  Places PlacesOf(int64_t padded_rows) const;
  int64_t RanksOfRow() const;
  TabledRows TableOfRows() const;
  TabledRows TableOfPairs(const at::Tensor& tiles, const at::Tensor& terms, int64_t ranks) const;
  const int32_t* TileOfRowThere() const;
  // The parts of a group at which the step's adapters add something.
  struct AddedParts {
    absl::InlinedVector<SegmentedGemmPart, 3> parts;
    int64_t most_experts = 0;
  };
  AddedParts PartsOf(const SiteGroup& group) const;
  TabledRows TableFor(const RowSegments& rows) const;  // the step's, or `others_`
  void AddParts(const SiteGroup& group, const at::Tensor& x, const TabledRows& table, const at::Tensor& input_rows,
                at::Tensor& y) const;
  at::Tensor WithReplacedHead(const SiteGroup& group, const at::Tensor& x, at::Tensor y) const;

  const SlotTable& slots_;
  const int64_t num_layers_;
  const bool down_has_bias_;
  const RowSegments others_;  // stands for the step's rows without those that FFN routers deal
  DeviceSlots on_device_;
  FeatureFloors floors_;
  GraphFeatures features_;  // that the last plan's launches are prepared for
  int64_t padded_rows_ = 0;
  const std::byte* tables_ = nullptr;       // on the device
  const std::unique_ptr<SideStream> side_;  // null: the device has none
};

}  // namespace lorad
