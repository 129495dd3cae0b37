#include "adapters/device_slots.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include <ATen/ops/empty.h>

#include "model/base/check.h"

namespace lorad {
namespace {

constexpr int64_t kFewestSlots = 512;  // growing drops every captured step
constexpr int64_t kWords = sizeof(SlotWeights) / sizeof(int64_t);
static_assert(sizeof(SlotWeights) % sizeof(int64_t) == 0 && std::is_trivially_copyable_v<SlotWeights>);

}  // namespace

DeviceSlots::DeviceSlots(const SlotTable& table, const BaseShape& shape, at::Device device)
    : table_(table), device_(device), layers_(shape.num_layers), first_row_(kNumSites, -1) {
  const auto add = [&](Site site, bool per_layer) {
    int64_t& first_row = first_row_[static_cast<size_t>(site)];
    if (IsNorm(site) || first_row >= 0) return;
    first_row = std::ssize(rows_);
    if (!per_layer) rows_.push_back({site, -1});
    for (int layer = 0; per_layer && layer < layers_; ++layer) rows_.push_back({site, layer});
  };
  for (const SiteShape& of : shape.sites) add(of.site, of.per_layer);
  add(Site::kFfn, /*per_layer=*/true);  // routers of adapters', no weight of the base's
  if (!device.is_cpu()) Grow();
}

const SlotWeights* DeviceSlots::At(Site site, int layer) const {
  const int64_t first = first_row_[static_cast<size_t>(site)];
  LORAD_CHECK(first >= 0 && copy_.defined());
  const auto* const all = static_cast<const SlotWeights*>(copy_.const_data_ptr());
  return all + (first + std::max(layer, 0)) * capacity_;
}

void DeviceSlots::Grow() {
  capacity_ = std::max<int64_t>(table_.slots(), kFewestSlots);
  copy_ = at::empty({std::ssize(rows_), capacity_, kWords}, at::TensorOptions().dtype(at::kLong).device(device_));
  versions_.assign(static_cast<size_t>(capacity_), 0);
  summaries_.resize(static_cast<size_t>(capacity_));
  ++generation_;
}

SlotSummary DeviceSlots::Summarize(int32_t slot) const {
  SlotSummary summary;
  for (const Row& row : rows_) {
    const SlotWeights& w = table_.At(row.site, row.layer)[slot];
    if (row.site == Site::kFfn) {
      summary.ffn_routers += w.routes() ? 1 : 0;
      if (w.routes()) summary.ffn_experts = std::max(summary.ffn_experts, w.experts);
      continue;
    }
    if (w.adds()) summary.adds |= BitOf(row.site);
    summary.scales_down |= row.site == Site::kDownProj && w.dora != nullptr;
    if (w.rank <= 0) continue;
    summary.most_ranks = std::max(summary.most_ranks, static_cast<int32_t>(w.ranks_of_a_row()));
    if (!w.routes()) continue;
    summary.routes |= BitOf(row.site);
    summary.most_experts = std::max(summary.most_experts, w.experts);
  }
  for (int site = 0; site < kNumSites; ++site) {
    const auto of = static_cast<Site>(site);
    for (int layer = 0; IsNorm(of) && layer < layers_; ++layer) {
      summary.replaces_norms |= table_.At(of, layer)[slot].replaces();
    }
  }
  return summary;
}

void DeviceSlots::Refresh(int32_t slot) {
  if (table_.slots() > capacity_) Grow();
  uint64_t& version = versions_[static_cast<size_t>(slot)];
  if (version == table_.version(slot)) return;
  summaries_[static_cast<size_t>(slot)] = Summarize(slot);
  const auto words = at::TensorOptions().dtype(at::kLong);
  const at::Tensor staged = at::empty({std::ssize(rows_), kWords}, words.pinned_memory(true));
  auto* next = static_cast<std::byte*>(staged.mutable_data_ptr());
  for (const Row& row : rows_) {
    std::memcpy(next, table_.At(row.site, row.layer) + slot, sizeof(SlotWeights));
    next += sizeof(SlotWeights);
  }
  copy_.select(1, slot).copy_(staged, /*non_blocking=*/true);
  version = table_.version(slot);
}

}  // namespace lorad
