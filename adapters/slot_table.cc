#include "adapters/slot_table.h"

#include "model/base/check.h"

namespace lorad {

SlotTable::SlotTable(const BaseShape& shape)
    : num_layers_(shape.num_layers > 0 ? shape.num_layers : 1),
      vocab_size_(shape.vocab_size),
      by_site_layer_(static_cast<size_t>(kNumSites * num_layers_)) {}

size_t SlotTable::Index(Site site, int32_t layer) const {
  LORAD_CHECK(layer >= -1 && layer < num_layers_);
  // A site outside the layers has one row of its own.
  return static_cast<size_t>(static_cast<int64_t>(site) * num_layers_ + (layer < 0 ? 0 : layer));
}

const SlotWeights* SlotTable::At(Site site, int32_t layer) const { return by_site_layer_[Index(site, layer)].data(); }

void SlotTable::Resize(int32_t slots) {
  LORAD_CHECK_GE(slots, num_slots_);
  for (std::vector<SlotWeights>& weights : by_site_layer_) weights.resize(static_cast<size_t>(slots));
  routing_.resize(static_cast<size_t>(slots));
  versions_.resize(static_cast<size_t>(slots), 1);
  num_slots_ = slots;
}

void SlotTable::Set(Site site, int32_t layer, int32_t slot, const SlotWeights& weights) {
  LORAD_CHECK(slot >= 0 && slot < num_slots_);
  SlotWeights& entry = by_site_layer_[Index(site, layer)][static_cast<size_t>(slot)];
  if (entry == weights) return;
  ++versions_[static_cast<size_t>(slot)];
  replacing_[static_cast<size_t>(site)] += int64_t{weights.replaces()} - int64_t{entry.replaces()};
  entry = weights;
}

void SlotTable::ClearSlot(int32_t slot) {
  for (int site = 0; site < kNumSites; ++site) {
    for (int32_t layer = 0; layer < num_layers_; ++layer) Set(static_cast<Site>(site), layer, slot, SlotWeights());
  }
}

}  // namespace lorad
