#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model/base/dtype.h"
#include "model/sites.h"

namespace lorad {

// One adapter's pair at one site and layer; rank 0 = the adapter does not touch it.
struct SlotWeights {
  const std::byte* a = nullptr;    // [rank, in]
  const std::byte* b_t = nullptr;  // [rank, out]
  int32_t rank = 0;
  float scale = 1.0f;
};

// For every (site, layer): the weights of each resident adapter by slot. Persistent; changes on residency only.
class SlotTable final {
 public:
  explicit SlotTable(const BaseShape& shape);

  // [slots()], for kernels.
  const SlotWeights* At(Site site, int32_t layer) const;
  bool AnyAt(Site site, int32_t layer, int32_t slot) const { return At(site, layer)[slot].rank > 0; }
  int32_t slots() const { return num_slots_; }
  DType dtype() const { return dtype_; }
  int64_t vocab_size() const { return vocab_size_; }  // columns of A at embed_tokens

  void Resize(int32_t slots);
  void Set(Site site, int32_t layer, int32_t slot, const SlotWeights& weights);
  void ClearSlot(int32_t slot);
  void SetDType(DType dtype) { dtype_ = dtype; }

 private:
  size_t Index(Site site, int32_t layer) const;
  int64_t num_layers_;
  int64_t vocab_size_;
  int32_t num_slots_ = 0;
  DType dtype_ = DType::kF32;
  std::vector<std::vector<SlotWeights>> by_site_layer_;
};

}  // namespace lorad
