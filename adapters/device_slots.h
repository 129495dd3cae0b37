#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "adapters/graph_features.h"
#include "adapters/slot_table.h"
#include "model/sites.h"

namespace lorad {

// A slot in a few words: what a launch must be prepared for if the slot is in the step.
struct SlotSummary {
  uint64_t adds = 0;       // a bit for each site where it adds, in whatever layer
  uint64_t routes = 0;     // of them, those where it routes
  int32_t most_ranks = 0;  // of a row, in all experts of a slot that routes
  int32_t most_experts = 0;
  bool replaces_norms = false;
  int64_t ffn_routers = 0;   // layers whose FFN it routes
  int32_t ffn_experts = 0;   // most of a layer
  bool scales_down = false;  // multiplies the base's down projection (DoRA), in whatever layer
};

// The slot table where kernels of captured launches read it: a copy on the device, at addresses that stay while it has
// room for the slots that there are. Of norms it has nothing.
//
// Threads  those of the table's reader: one, while residency stands still.
class DeviceSlots final {
 public:
  // Both outlive it. Has room for some hundred slots from the start. Throws as LibTorch does.
  DeviceSlots(const SlotTable& table, const BaseShape& shape, at::Device device);

  // Brings the slot up to date there; the copy is queued on the current stream. Throws as LibTorch does.
  void Refresh(int32_t slot);

  // [slots()], on the device; layer -1 for a site outside of the layers.
  const SlotWeights* At(Site site, int layer) const;
  const SlotSummary& Summary(int32_t slot) const { return summaries_[static_cast<size_t>(slot)]; }
  // Raised when addresses change.
  int64_t generation() const { return generation_; }

 private:
  struct Row {
    Site site;
    int layer;
  };
  void Grow();
  SlotSummary Summarize(int32_t slot) const;

  const SlotTable& table_;
  const at::Device device_;
  const int64_t layers_;
  std::vector<Row> rows_;
  std::vector<int64_t> first_row_;  // by site; -1: it has none
  int64_t capacity_ = 0;            // slots
  at::Tensor copy_;                 // [rows, capacity, bytes of an entry / 8] int64
  std::vector<uint64_t> versions_;  // by slot, that are there; 0: none
  std::vector<SlotSummary> summaries_;
  int64_t generation_ = 0;
};

}  // namespace lorad
