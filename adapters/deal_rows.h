#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include <ATen/core/Tensor.h>

#include "adapters/routing.h"
#include "model/adapter_seam.h"

namespace lorad {

// The routers of a step's adapters at the FFN of one layer, by the slot that a RowSegments term names.
class LayerRouters {
 public:
  struct Router {
    int32_t experts = 0;  // none: the slot's adapter does not route
    const RoutingRule* rule = nullptr;
    std::atomic<int64_t>* expert_rows = nullptr;  // [experts] to be raised by the rows sent to each; may be null
  };

  virtual ~LayerRouters() = default;
  virtual Router Of(int32_t slot) const = 0;
  // The slot's adapter multiplies the base's down projection (DoRA).
  virtual bool ScalesDown(int32_t slot) const = 0;
  // f32 [count, experts] of rows first..first + count; once for each segment that is routed, in order.
  virtual at::Tensor Logits(int32_t slot, int64_t first, int64_t count) = 0;
  // Whether the expert still takes a row that chose it; asked once for each choice, in the order of rows.
  virtual bool Takes(int32_t slot, int64_t row, int32_t expert) = 0;
};

// Sends the rows of routed adapters to their experts: the adapter's rule, pairs sorted by adapter and expert. Of a
// row's terms one at most is of a routed adapter; the others act on each of its pairs. nullptr: no row is routed.
std::shared_ptr<RoutedRows> DealRows(const RowSegments& rows, LayerRouters& routers);

}  // namespace lorad
