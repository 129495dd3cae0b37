#pragma once

#include <ATen/core/Tensor.h>

#include "adapters/slot_table.h"
#include "model/adapter_seam.h"

namespace lorad {

// Adds the resident adapters' updates to the rows that use them, unmerged: one segmented call for each fused matmul,
// whatever the mix of adapters in the step. A matmul that no adapter of the step touches gets the base's bias alone,
// and so does every row without terms.
//
// LoRA on embed_tokens acts on the embedding, LoRA on lm_head on the head, also where the base ties the two (as PEFT,
// unmerged): a pair for each is what ensure_weight_tying saves.
//
// Threads  as AdapterSeam; `slots` must not change during a step and must outlive the seam.
class SlotSeam final : public AdapterSeam {
 public:
  // `device`: where the slots' weights lie, and the rows of every step.
  explicit SlotSeam(const SlotTable& slots, at::Device device = at::kCPU) : slots_(slots), device_(device) {}

  at::Tensor FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const at::Tensor& base_bias,
                          const RowSegments& rows) override;
  bool FinishesDealt(int layer, const RowSegments& rows) override;
  RowRouting RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) override;
  at::Tensor FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) override;
  const NormOverride* Norm(int layer, Site site, const RowSegments& rows) override;

 private:
  // What the step's adapters do at a site.
  struct Use {
    bool adds = false;
    bool replaces = false;
    bool routes = false;
    int64_t end_of_rows = 0;  // the most of them
  };
  Use UseAt(Site site, int layer, const RowSegments& rows) const;

  const SlotTable& slots_;
  const at::Device device_;
  NormOverride norm_;  // Norm's latest answer
};

}  // namespace lorad
