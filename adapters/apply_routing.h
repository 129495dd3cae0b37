#pragma once

#include <ATen/core/Tensor.h>

#include "adapters/slot_table.h"
#include "model/adapter_seam.h"

namespace lorad {

// Sends the rows of routed adapters to their experts: logits x Wg^T in f32, the adapter's rule, pairs sorted by adapter
// and expert. x [R, hidden] f32 or bf16. Of a row's terms one at most is of a routed adapter; the others act on each of
// its pairs.
RowRouting RouteRows(const SlotTable& slots, int layer, const at::Tensor& x, const RowSegments& rows);

}  // namespace lorad
