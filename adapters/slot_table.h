#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "adapters/routing.h"
#include "model/base/dtype.h"
#include "model/sites.h"

namespace lorad {

// What one adapter changes at one site and layer. The vectors are f32 in every pool. Pointers are addresses of the
// pool's memory: where that is a device's, kernels alone follow them, but for expert_rows, which both sides may.
struct SlotWeights {
  const std::byte* a = nullptr;    // [experts, rank, in]
  const std::byte* b_t = nullptr;  // [experts, rank, out]
  int32_t rank = 0;                // 0 = no pair
  float scale = 1.0f;
  const float* dora = nullptr;        // [experts, 3, out], see adapters/dora.h
  const float* delta_bias = nullptr;  // [out], of B (lora_bias)
  const float* bias = nullptr;        // [out], what the adapter's own bias is above the base's
  int32_t experts = 1;                // a term says which of them it means
  // What replaces rows of an embedding or a head, or a norm's weight and bias: ImageSlot::rows.
  const std::byte* rows = nullptr;   // [num_rows, width]
  const int32_t* row_ids = nullptr;  // [num_rows] ascending; nullptr: all, from 0
  int32_t num_rows = 0;
  int32_t width = 0;
  int64_t end_of_rows = 0;  // one past the last row of the table that is replaced: the host's, who reads no row_ids
  // Deals rows to the experts. At a linear all of them act on every row that is the adapter's, each with its weight:
  // the softmax over all, of the likeliest `router_top_k` alone, so that these sum to one.
  const float* router = nullptr;  // [experts, in]
  int32_t router_top_k = 0;
  std::atomic<int64_t>* expert_rows = nullptr;  // [experts], raised by the rows that go there; nullptr: not counted

  int64_t ranks_of_a_row() const { return routes() ? int64_t{experts} * rank : rank; }
  bool adds() const { return rank > 0 || bias != nullptr; }
  bool replaces() const { return num_rows > 0; }
  bool routes() const { return router != nullptr; }

  bool operator==(const SlotWeights&) const = default;
};

// For every (site, layer): the weights of each resident adapter by slot. Persistent; changes on residency only.
class SlotTable final {
 public:
  explicit SlotTable(const BaseShape& shape);

  // [slots()], for kernels.
  const SlotWeights* At(Site site, int32_t layer) const;
  // Whether any resident adapter replaces rows at this site, in whatever layer.
  bool AnyReplaces(Site site) const { return replacing_[static_cast<size_t>(site)] > 0; }
  int32_t slots() const { return num_slots_; }
  // Raised when something of the slot becomes another: who keeps a copy elsewhere goes by it.
  uint64_t version(int32_t slot) const { return versions_[static_cast<size_t>(slot)]; }
  DType dtype() const { return dtype_; }
  int64_t vocab_size() const { return vocab_size_; }  // columns of A at embed_tokens

  void Resize(int32_t slots);
  void Set(Site site, int32_t layer, int32_t slot, const SlotWeights& weights);
  void ClearSlot(int32_t slot);
  void SetRouting(int32_t slot, const RoutingRule& rule) { routing_[static_cast<size_t>(slot)] = rule; }
  const RoutingRule& RoutingOf(int32_t slot) const { return routing_[static_cast<size_t>(slot)]; }
  void SetDType(DType dtype) { dtype_ = dtype; }

 private:
  size_t Index(Site site, int32_t layer) const;
  int64_t num_layers_;
  int64_t vocab_size_;
  int32_t num_slots_ = 0;
  DType dtype_ = DType::kF32;
  std::vector<std::vector<SlotWeights>> by_site_layer_;
  std::array<int64_t, kNumSites> replacing_ = {};  // entries that replace rows
  std::vector<RoutingRule> routing_;               // by slot
  std::vector<uint64_t> versions_;                 // by slot, from 1
};

}  // namespace lorad
