#include "adapters/device_slots.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include <ATen/ops/empty.h>

#include "model/base/check.h"

namespace lorad {
namespace {

constexpr int64_t kWords = sizeof(SlotWeights) / sizeof(int64_t);
static_assert(sizeof(SlotWeights) % sizeof(int64_t) == 0 && std::is_trivially_copyable_v<SlotWeights>);

bool HasPairs(Site site) { return !IsNorm(site) && site != Site::kFfn; }

}  // namespace

DeviceSlots::DeviceSlots(const SlotTable& table, const BaseShape& shape, at::Device device)
    : table_(table), device_(device), layers_(shape.num_layers), first_row_(kNumSites, -1) {
  for (const SiteShape& of : shape.sites) {
    if (!HasPairs(of.site) || first_row_[static_cast<size_t>(of.site)] >= 0) continue;
    first_row_[static_cast<size_t>(of.site)] = std::ssize(rows_);
    if (!of.per_layer) rows_.push_back({of.site, -1});
    for (int layer = 0; of.per_layer && layer < layers_; ++layer) rows_.push_back({of.site, layer});
  }
}

const SlotWeights* DeviceSlots::At(Site site, int layer) const {
  const int64_t first = first_row_[static_cast<size_t>(site)];
  LORAD_CHECK(first >= 0 && copy_.defined());
  const auto* const all = static_cast<const SlotWeights*>(copy_.const_data_ptr());
  return all + (first + std::max(layer, 0)) * capacity_;
}

void DeviceSlots::Grow() {
  capacity_ = table_.slots();
  copy_ = at::empty({std::ssize(rows_), capacity_, kWords}, at::TensorOptions().dtype(at::kLong).device(device_));
  versions_.assign(static_cast<size_t>(capacity_), 0);
  summaries_.resize(static_cast<size_t>(capacity_));
  ++generation_;
}

SlotSummary DeviceSlots::Summarize(int32_t slot) const {
  SlotSummary summary;
  for (const Row& row : rows_) {
    const SlotWeights& w = table_.At(row.site, row.layer)[slot];
    if (w.adds()) summary.adds |= BitOf(row.site);
    if (w.rank <= 0) continue;
    summary.most_ranks = std::max(summary.most_ranks, static_cast<int32_t>(w.ranks_of_a_row()));
    if (!w.routes()) continue;
    summary.routes |= BitOf(row.site);
    summary.most_experts = std::max(summary.most_experts, w.experts);
  }
  for (int site = 0; site < kNumSites; ++site) {
    const auto of = static_cast<Site>(site);
    if (HasPairs(of)) continue;
    for (int layer = 0; layer < layers_; ++layer) {
      const SlotWeights& w = table_.At(of, layer)[slot];
      summary.replaces_norms |= w.replaces();
      summary.routes_ffn |= w.routes();
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
