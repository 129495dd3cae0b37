#pragma once

#include <ATen/core/Tensor.h>

#include "adapters/train/leaves.h"
#include "adapters/train/micro_batch_part.h"

namespace lorad {

// The chance with which an element of the module's input is dropped.
double DropoutOf(const MicroBatchPart& own, const LeafModule& module);

// x [R, in] in the leaves' type, without what the part's masks drop of the module's input; the rest is scaled up.
at::Tensor Dropped(const at::Tensor& x, const MicroBatchPart& own, const LeafModule& module);

// scale * B A x [R, out], of what Dropped gave.
at::Tensor PairDelta(const at::Tensor& dropped, const LeafModule& module);

}  // namespace lorad
