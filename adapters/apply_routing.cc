#include "adapters/apply_routing.h"

#include <memory>
#include <utility>

#include <ATen/ops/empty.h>

#include "adapters/deal_rows.h"
#include "adapters/slot_tensor.h"
#include "model/base/guarded.h"
#include "model/ops/linear.h"

namespace lorad {
namespace {

// The routers of resident adapters.
class SlotRouters final : public LayerRouters {
 public:
  SlotRouters(const SlotTable& slots, int layer, const at::Tensor& x)
      : slots_(slots), weights_(slots.At(Site::kFfn, layer)), downs_(slots.At(Site::kDownProj, layer)), x_(x) {}

  Router Of(int32_t slot) const override {
    const SlotWeights& weights = weights_[slot];
    return weights.routes() ? Router{weights.experts, &slots_.RoutingOf(slot), weights.expert_rows} : Router{};
  }
  bool ScalesDown(int32_t slot) const override { return downs_[slot].dora != nullptr; }
  bool Takes(int32_t, int64_t, int32_t) override { return true; }

  at::Tensor Logits(int32_t slot, int64_t first, int64_t count) override {
    const SlotWeights& weights = weights_[slot];
    const at::Tensor gate = SlotTensor(weights.router, {weights.experts, x_.size(1)}, at::kFloat, x_.device());
    const at::Tensor rows = x_.narrow(0, first, count).to(at::kFloat);
    at::Tensor logits = at::empty({count, weights.experts}, rows.options());
    ThrowIfError(Linear({rows, LinearWeight::Prepare(gate), logits}));
    return logits.cpu();  // rows are dealt there
  }

 private:
  const SlotTable& slots_;
  const SlotWeights* const weights_;  // by slot
  const SlotWeights* const downs_;    // by slot
  const at::Tensor& x_;
};

}  // namespace

RowRouting RouteRows(const SlotTable& slots, int layer, const at::Tensor& x, const RowSegments& rows) {
  SlotRouters routers(slots, layer, x);
  std::shared_ptr<const RoutedRows> routed = DealRows(rows, routers);
  if (routed == nullptr) return {&rows};
  const RowSegments* others = &routed->others;
  return {others, std::move(routed)};
}

}  // namespace lorad
