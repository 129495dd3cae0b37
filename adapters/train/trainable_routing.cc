#include "adapters/train/trainable_routing.h"

#include <algorithm>
#include <memory>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_add.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "adapters/deal_rows.h"
#include "adapters/train/pair_delta.h"
#include "adapters/train/random_order.h"
#include "model/base/check.h"
#include "model/device_step.h"

namespace lorad {
namespace {

// A router's say on the rows of one part, [R, experts] each.
struct RouterOutput {
  at::Tensor logits;
  at::Tensor p;
  at::Tensor chosen;  // ones and zeros, a constant
};

RouterOutput OutputOf(const LeafModule& router, const at::Tensor& x) {
  RouterOutput out;
  out.logits = at::linear(x.to(router.router.scalar_type()), router.router);
  out.p = at::softmax(out.logits, 1);
  return out;
}

// Ones and zeros as a tensor like p.
at::Tensor MaskOf(const std::vector<float>& mask, const at::Tensor& p) {
  return OnDevice(p.device(), at::tensor(mask).view(p.sizes()).to(p.scalar_type()));
}

RouterSums SumsOf(const RouterOutput& out) {
  return {out.p.size(0), out.p.sum(at::IntArrayRef{0}), out.chosen.sum(at::IntArrayRef{0}),
          at::logsumexp(out.logits, at::IntArrayRef{1}).square().sum()};
}

// w [R, experts] of what is chosen
at::Tensor WeightsOf(const RoutingRule& rule, const at::Tensor& p, const at::Tensor& chosen) {
  const at::Tensor weights = p * chosen;
  if (rule.renormalise) return weights / weights.sum(at::IntArrayRef{1}, /*keepdim=*/true);
  const bool divides = rule.choice == RoutingRule::Choice::kTopP && rule.temperature > 0.0f;
  return divides ? weights / rule.temperature : weights;
}

// Of a choice [R, experts]: the rows that expert `e` is chosen by.
std::vector<int64_t> RowsThatChose(const std::vector<float>& mask, int32_t experts, int32_t e) {
  std::vector<int64_t> rows;
  for (size_t i = static_cast<size_t>(e); i < mask.size(); i += static_cast<size_t>(experts)) {
    if (mask[i] != 0.0f) rows.push_back(static_cast<int64_t>(i) / experts);
  }
  return rows;
}

at::Tensor Noisy(const at::Tensor& x, double jitter, uint64_t seed) {
  at::Tensor noise = at::empty(x.sizes(), at::TensorOptions().dtype(x.scalar_type()));
  noise.uniform_(1.0 - jitter, 1.0 + jitter, at::detail::createCPUGenerator(seed));
  return x * OnDevice(x.device(), noise);
}

// The rows of one part at one layer's router.
struct RoutedPart {
  int32_t slot = 0;
  int64_t first_row = 0;
  RouterOutput out;
  at::Tensor taken = {};                // [R, experts] as out.chosen, without what was beyond the capacity
  std::vector<float> chosen_mask = {};  // the same two while rows are dealt
  std::vector<float> taken_mask = {};
  std::vector<int64_t> pairs = {};  // which elements of `taken` are the pairs, in their order
  // Of the sequence at hand, where experts have a capacity.
  size_t sequence = 0;
  int64_t end_of_sequence = 0;  // behind first_row
  std::vector<int64_t> rows_taken = {};
};

class LeafRouters final : public LayerRouters {
 public:
  LeafRouters(const std::vector<MicroBatchPart>& parts, int layer, const at::Tensor& x, const RowSegments& rows)
      : parts_(parts), layer_(layer), x_(x) {
    AddNoise(rows);
  }

  Router Of(int32_t slot) const override {
    const RoutedTraining* routed = parts_[static_cast<size_t>(slot)].leaves->routed();
    if (routed == nullptr || routed->moe.kind != MoeKind::kMixLora) return {};
    return {routed->moe.experts, &routed->moe.routing};
  }
  bool ScalesDown(int32_t slot) const override {
    const LeafModule* down = parts_[static_cast<size_t>(slot)].leaves->Find(Site::kDownProj, layer_, /*expert=*/0);
    return down != nullptr && down->magnitude.defined();
  }

  at::Tensor Logits(int32_t slot, int64_t first, int64_t count) override {
    const MicroBatchPart& part = parts_[static_cast<size_t>(slot)];
    const at::Tensor& input = router_input_.defined() ? router_input_ : x_;
    RoutedPart routed{slot, first, OutputOf(*part.leaves->Find(Site::kFfn, layer_), input.narrow(0, first, count))};
    routed.chosen_mask.assign(static_cast<size_t>(routed.out.p.numel()), 0.0f);
    routed.taken_mask = routed.chosen_mask;
    routed_.push_back(std::move(routed));
    return ToHost(routed_.back().out.logits.detach().to(at::kFloat)).contiguous();
  }

  bool Takes(int32_t slot, int64_t row, int32_t expert) override {
    RoutedPart& routed = routed_.back();
    LORAD_CHECK(routed.slot == slot);
    const int64_t own_row = row - routed.first_row;
    const auto element = static_cast<size_t>(own_row * routed.out.p.size(1) + expert);
    routed.chosen_mask[element] = 1.0f;
    if (!HasRoom(&routed, own_row, expert)) return false;
    routed.taken_mask[element] = 1.0f;
    return true;
  }

  const at::Tensor& expert_input() const { return expert_input_; }

  // All rows were dealt.
  void Finish(RouterLoss* loss) {
    for (RoutedPart& routed : routed_) {
      routed.out.chosen = MaskOf(routed.chosen_mask, routed.out.p);
      routed.taken = MaskOf(routed.taken_mask, routed.out.p);
      loss->Put(routed.slot, Site::kFfn, layer_, SumsOf(routed.out));
    }
  }

  // [P]
  at::Tensor PairWeights(const RowSegments& pairs) {
    for (int64_t g = 0; g < pairs.groups(); ++g) {
      const SlotTerm& term = pairs.terms[static_cast<size_t>(pairs.term_starts[static_cast<size_t>(g)])];
      RoutedPart& routed = Find(term.slot);
      for (int32_t pair = pairs.starts[static_cast<size_t>(g)]; pair < pairs.starts[static_cast<size_t>(g) + 1];
           ++pair) {
        const int64_t own_row = pairs.input_rows[static_cast<size_t>(pair)] - routed.first_row;
        routed.pairs.push_back(own_row * routed.taken.size(1) + term.expert);
      }
    }
    std::vector<at::Tensor> weights;
    for (const RoutedPart& routed : routed_) {
      const RoutingRule& rule = parts_[static_cast<size_t>(routed.slot)].leaves->routed()->moe.routing;
      const at::Tensor dense = WeightsOf(rule, routed.out.p, routed.taken);
      weights.push_back(at::index_select(dense.flatten(), 0, OnDevice(dense.device(), at::tensor(routed.pairs))));
    }
    return weights.size() == 1 ? weights[0] : at::cat(weights, 0);
  }

  // What rows give that no expert had room for, [R, hidden]; undefined: every row has experts.
  at::Tensor Passed() const {
    at::Tensor passed;
    for (const RoutedPart& routed : routed_) {
      if (routed.chosen_mask == routed.taken_mask) continue;
      const at::Tensor left = (routed.out.chosen - routed.taken).sum(at::IntArrayRef{1}, /*keepdim=*/true);  // [R, 1]
      const at::Tensor x = x_.narrow(0, routed.first_row, left.size(0)).to(left.scalar_type());
      const at::Tensor largest = (routed.out.p * routed.out.chosen).sum(at::IntArrayRef{1}, /*keepdim=*/true);
      std::vector<at::Tensor> blocks = {at::zeros({routed.first_row, x.size(1)}, left.options()), x * largest * left};
      const int64_t end = routed.first_row + left.size(0);
      blocks.push_back(at::zeros({x_.size(0) - end, x.size(1)}, left.options()));
      const at::Tensor own = at::cat(blocks, 0).to(x_.scalar_type());
      passed = passed.defined() ? passed + own : own;
    }
    return passed;
  }

 private:
  RoutedPart& Find(int32_t slot) {
    const auto found =
        std::find_if(routed_.begin(), routed_.end(), [&](const RoutedPart& routed) { return routed.slot == slot; });
    LORAD_CHECK(found != routed_.end());
    return *found;
  }

  void AddNoise(const RowSegments& rows) {
    std::vector<at::Tensor> of_routers, of_experts;
    bool any = false;
    for (int64_t g = 0; g < rows.groups(); ++g) {
      const auto group = static_cast<size_t>(g);
      const at::Tensor block = x_.narrow(0, rows.starts[group], rows.starts[group + 1] - rows.starts[group]);
      of_routers.push_back(block);
      of_experts.push_back(block);
      if (rows.term_starts[group] == rows.term_starts[group + 1]) continue;
      const int32_t slot = rows.terms[static_cast<size_t>(rows.term_starts[group])].slot;
      const MicroBatchPart& part = parts_[static_cast<size_t>(slot)];
      if (Of(slot).experts == 0 || !part.has_noise || part.leaves->routed()->jitter_noise == 0.0) continue;
      any = true;
      const uint64_t place = static_cast<uint64_t>(layer_ + 1) * kNumSites + static_cast<uint64_t>(Site::kFfn);
      of_routers.back() = Noisy(block, part.leaves->routed()->jitter_noise, MixSeed(part.dropout_seed, place));
      if (!part.leaves->routed()->is_switch()) of_experts.back() = of_routers.back();
    }
    if (!any) return;
    router_input_ = at::cat(of_routers, 0);
    expert_input_ = at::cat(of_experts, 0);
  }

  // An expert takes the first rows of a sequence that choose it.
  bool HasRoom(RoutedPart* routed, int64_t own_row, int32_t expert) const {
    const MicroBatchPart& part = parts_[static_cast<size_t>(routed->slot)];
    const int64_t capacity = part.leaves->routed()->expert_capacity;
    if (!part.has_capacity || capacity == 0) return true;
    while (own_row >= routed->end_of_sequence) {
      routed->end_of_sequence += static_cast<int64_t>(part.sequences[routed->sequence++].token_ids.size());
      routed->rows_taken.assign(static_cast<size_t>(routed->out.p.size(1)), 0);
    }
    return ++routed->rows_taken[static_cast<size_t>(expert)] <= capacity;
  }

  const std::vector<MicroBatchPart>& parts_;
  const int layer_;
  const at::Tensor& x_;
  at::Tensor router_input_, expert_input_;  // undefined: no noise
  std::vector<RoutedPart> routed_;
};

}  // namespace

RowRouting RouteTrainedRows(const std::vector<MicroBatchPart>& parts, int layer, const at::Tensor& x,
                            const RowSegments& rows, RouterLoss* loss) {
  LeafRouters routers(parts, layer, x, rows);
  const std::shared_ptr<RoutedRows> routed = DealRows(rows, routers);
  if (routed == nullptr) return {&rows};
  routers.Finish(loss);
  routed->pair_weights = routers.PairWeights(routed->pairs);
  routed->passed = routers.Passed();
  return {&routed->others, routed, routers.expert_input()};
}

at::Tensor AddExperts(const std::vector<MicroBatchPart>& parts, int32_t part, const LeafModule& router,
                      const at::Tensor& x, const at::Tensor& y, RouterLoss* loss) {
  const MicroBatchPart& own = parts[static_cast<size_t>(part)];
  const MoeConfig& moe = own.leaves->routed()->moe;
  RouterOutput out = OutputOf(router, x);
  const at::Tensor logits = ToHost(out.logits.detach().to(at::kFloat)).contiguous();
  std::vector<int32_t> chosen(static_cast<size_t>(moe.routing.Choices(moe.experts)));
  std::vector<float> weights(chosen.size()), mask(static_cast<size_t>(logits.numel()), 0.0f);
  for (int64_t row = 0; row < x.size(0); ++row) {
    ChooseExperts(moe.routing, {logits.const_data_ptr<float>() + row * moe.experts, static_cast<size_t>(moe.experts)},
                  absl::MakeSpan(chosen), absl::MakeSpan(weights));
    for (const int32_t expert : chosen) mask[static_cast<size_t>(row * moe.experts + expert)] = 1.0f;
  }
  out.chosen = MaskOf(mask, out.p);
  loss->Put(part, router.site, router.layer, SumsOf(out));
  const at::Tensor by_expert = WeightsOf(moe.routing, out.p, out.chosen), wide = x.to(out.p.scalar_type());
  at::Tensor sum = at::zeros({y.size(0), y.size(1)}, wide.options());
  for (int32_t e = 0; e < moe.experts; ++e) {
    const std::vector<int64_t> rows = RowsThatChose(mask, moe.experts, e);
    if (rows.empty()) continue;
    const LeafModule& module = *own.leaves->Find(router.site, router.layer, e);
    const at::Tensor weights_of_all = by_expert.narrow(1, e, 1);
    if (std::ssize(rows) == x.size(0)) {
      sum = sum + PairDelta(Dropped(wide, own, module), module) * weights_of_all;
      continue;
    }
    const at::Tensor index = OnDevice(x.device(), at::tensor(rows));
    const at::Tensor delta = PairDelta(Dropped(at::index_select(wide, 0, index), own, module), module);
    sum = at::index_add(sum, 0, index, delta * at::index_select(weights_of_all, 0, index));
  }
  return y + sum.to(y.scalar_type());
}

}  // namespace lorad
