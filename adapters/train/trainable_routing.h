#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "adapters/train/leaves.h"
#include "adapters/train/micro_batch_part.h"
#include "adapters/train/router_loss.h"
#include "model/adapter_seam.h"

namespace lorad {

// Routers in training: the choices are serving's own (ChooseExperts), and autograd goes through the chosen experts'
// weights. With p = softmax(x Wg^T) in f32 over all experts, and M the choice as zeros and ones:
//
// MixLoRA, MOLA   w = p M, divided by its sum
// dynamic         w = p M, divided by the temperature if there is one
// switch          w = p M; a row beyond an expert's capacity gives itself, times its largest p
// LoRAMoE         w = p
//
// In a step, MixLoRA's x is first multiplied by noise of the part's seed: for router and experts, of switch for the
// router alone.

// Sends the rows of MixLoRA's parts to their experts.
RowRouting RouteTrainedRows(const std::vector<MicroBatchPart>& parts, int layer, const at::Tensor& x,
                            const RowSegments& rows, RouterLoss* loss);

// y [R, out] + sum_e w_e * scale * B_e A_e x', x [R, in]: a linear with a router of its own (LoRAMoE, MOLA).
at::Tensor AddExperts(const std::vector<MicroBatchPart>& parts, int32_t part, const LeafModule& router,
                      const at::Tensor& x, const at::Tensor& y, RouterLoss* loss);

}  // namespace lorad
