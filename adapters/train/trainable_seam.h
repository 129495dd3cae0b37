#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "adapters/train/linear_pairs.h"
#include "adapters/train/micro_batch_part.h"
#include "adapters/train/router_loss.h"
#include "model/adapter_seam.h"

namespace lorad {

// The seam of training: a RowSegments term's slot is an index into `parts`. Deltas are computed in f32 from the master
// weights and rounded to y's dtype, as peft does; what requires a gradient is recorded. With x' = drop(x) and
// f = magnitude / norm, which is a constant (arXiv 2402.09353, 4.3):
//
// LoRA        y += scale * B A x'
// PiSSA       y += scale * (B A x' - B0 A0 x): the base without the pair of the beginning. OLoRA too
// embedding   y[r] += scale * B A[:, id of r]; with DoRA, f times that
// DoRA        y = f * (y + scale * B A x), and with dropout, as peft has it,
//             y += (f - 1) * W x' + f * scale * B A x'; W is without the pair of the beginning
// bias        a trained one is added instead of the base's
// weight      of an embedding, a head or a norm: a trained one, or trained rows of it, stand in for the base's
// routers     as trainable_routing.h says
class TrainableSeam final : public AdapterSeam {
 public:
  // `dtype`: the model's. `parts` outlive it.
  explicit TrainableSeam(const std::vector<MicroBatchPart>* parts, at::ScalarType dtype = at::kFloat)
      : parts_(parts), dtype_(dtype), router_loss_(parts) {}

  at::Tensor FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const at::Tensor& base_bias,
                          const RowSegments& rows) override;
  RowRouting RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) override;
  at::Tensor FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) override;
  const NormOverride* Norm(int layer, Site site, const RowSegments& rows) override;

  // Of the forward that went through this seam.
  RouterLoss& router_loss() { return router_loss_; }

 private:
  bool TrainsBiases(const SiteGroup& group) const;
  // The pairs of all rows where there is nothing else to be done for them, and they are f32 on the CPU; else nothing.
  std::optional<std::vector<PairBlock>> PairsAlone(const SiteGroup& group, const at::Tensor& x,
                                                   const RowSegments& rows) const;
  // Whose the rows of segment `g` are; nullptr: nobody's.
  const MicroBatchPart* PartOf(int64_t g, const RowSegments& rows) const;

  const std::vector<MicroBatchPart>* const parts_;
  const at::ScalarType dtype_;
  NormOverride norm_;  // the last one asked for
  RouterLoss router_loss_;
};

}  // namespace lorad
