#include "adapters/train/trainable_seam.h"

#include <algorithm>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/index_copy.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "adapters/train/leaves.h"
#include "adapters/train/pair_delta.h"
#include "adapters/train/trainable_routing.h"
#include "model/base/check.h"
#include "model/ops/autograd/gathered_rows.h"
#include "model/ops/autograd/in_pieces.h"
#include "model/ops/autograd/trained_linear.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

constexpr int64_t kReadProducts = 128;  // what a weight costs that is read, widened and perhaps rounded anew

// y [R, out] of the base's weight without the pair that was taken off it; x [R, in], both in the leaves' type
at::Tensor WithoutInitialPair(const LeafModule& module, const at::Tensor& x, const at::Tensor& y) {
  if (!module.initial_a.defined()) return y;
  const at::Tensor taken = at::linear(at::linear(x, module.initial_a), module.initial_b);
  return at::sub(y, at::mul(taken, module.scale));
}

// x W^T [R, out] of the base's own weight, which is read a block of rows at a time
at::Tensor MultipliedByBase(const LeafModule& module, const at::Tensor& x) {
  const int64_t out = module.b.size(0), in = x.size(1), rows = std::max<int64_t>(x.size(0), kReadProducts);
  const int64_t most = std::min(PieceRows(rows * in), std::max<int64_t>(1, kWidenedElements / in));
  std::vector<at::Tensor> columns;
  ItemsInPieces(out, most, rows * in, [&](int64_t first, int64_t count) {
    columns.push_back(at::linear(x, module.base_weight(first, count).to(x.scalar_type())));
  });
  return columns.size() == 1 ? columns[0] : at::cat(columns, 1);
}

// x, dropped [R, in], y, delta [R, out] in the leaves' type
at::Tensor WithDora(const MicroBatchPart& own, const LeafModule& module, const at::Tensor& x, const at::Tensor& dropped,
                    const at::Tensor& y, const at::Tensor& delta) {
  const at::Tensor factor = module.magnitude / module.norm, base = WithoutInitialPair(module, x, y);
  if (DropoutOf(own, module) == 0.0) return at::mul(at::add(base, delta), factor);
  const at::Tensor of_dropped = WithoutInitialPair(module, dropped, MultipliedByBase(module, dropped));
  return at::add(base, at::add(at::mul(of_dropped, at::sub(factor, 1.0)), at::mul(delta, factor)));
}

// x [R, in], y [R, out] of one module and the rows of one adapter
at::Tensor WithPair(const MicroBatchPart& own, const LeafModule& module, const at::Tensor& x, const at::Tensor& y) {
  const at::ScalarType wide_type = module.a.scalar_type();  // f32; f64 where a test looks at gradients
  const at::Tensor wide = x.to(wide_type), dropped = Dropped(wide, own, module);
  const at::Tensor delta = PairDelta(dropped, module);
  if (module.magnitude.defined()) {
    return WithDora(own, module, wide, dropped, y.to(wide_type), delta).to(y.scalar_type());
  }
  return at::add(y, WithoutInitialPair(module, wide, delta).to(y.scalar_type()));
}

// x W^T [R, n] of a trained weight [n, in]
at::Tensor Multiplied(const at::Tensor& x, const at::Tensor& weight) {
  return TrainedLinear(x, weight.to(x.scalar_type()));
}

// What a module makes of x [R, in] for the rows of one adapter, without its bias; y [R, out] is the base's.
at::Tensor Apply(const MicroBatchPart& own, const LeafModule& module, const at::Tensor& x, const at::Tensor& y) {
  if (module.weight.defined()) return Multiplied(x, module.weight);
  const at::Tensor base =
      module.token_rows.defined() ? at::index_copy(y, 1, module.token_ids, Multiplied(x, module.token_rows)) : y;
  return module.a.defined() ? WithPair(own, module, x, base) : base;
}

// Rows [R, columns] of what is trained of an embedding, by `ids` [R]; as in torch, the padding's gets no gradient.
at::Tensor LookedUp(const LeafModule& module, const at::Tensor& table, const at::Tensor& ids) {
  return at::embedding(table, ids, module.padding_row);
}

// raw [R, width] with the trained rows in the place of the base's; ids [R] int32. The host does not look at them.
at::Tensor WithTokenRows(const LeafModule& module, const at::Tensor& ids, const at::Tensor& raw) {
  const at::Tensor wanted = ids.to(at::kLong);
  const at::Tensor place = at::searchsorted(module.token_ids, wanted).clamp_max(module.token_ids.numel() - 1);
  const at::Tensor is_trained = at::index_select(module.token_ids, 0, place) == wanted;
  const at::Tensor trained = LookedUp(module, module.token_rows, place).to(raw.scalar_type());
  return at::where(is_trained.unsqueeze(1), trained, raw);
}

// raw [R, width] are the base's rows of ids [R] int32
at::Tensor Embedded(const LeafModule& module, const at::Tensor& ids, const at::Tensor& raw) {
  if (module.weight.defined()) return LookedUp(module, module.weight, ids).to(raw.scalar_type());
  if (module.token_rows.defined()) return WithTokenRows(module, ids, raw);
  const at::Tensor columns = LookedUp(module, module.a.t(), ids);  // [R, rank]; no dropout, as peft
  const at::Tensor delta = at::mul(at::linear(columns, module.b), module.scale);
  if (!module.magnitude.defined()) return at::add(raw, delta.to(raw.scalar_type()));
  return at::mul(at::add(raw.to(delta.scalar_type()), delta), module.magnitude / module.norm).to(raw.scalar_type());
}

// A pair that the products of AddPairs are all of.
bool IsPairAlone(const MicroBatchPart& own, const LeafModule& module) {
  const bool has_others = module.magnitude.defined() || module.initial_a.defined() || module.router.defined() ||
                          module.bias.defined() || module.weight.defined() || module.token_rows.defined();
  return module.a.defined() && !has_others && module.a.scalar_type() == at::kFloat && DropoutOf(own, module) == 0.0;
}

// y [R, out] with the pairs' deltas, which are computed in f32 and rounded to its type
at::Tensor WithPairs(const at::Tensor& x, const at::Tensor& y, const std::vector<PairBlock>& pairs) {
  if (y.scalar_type() == at::kFloat) return AddPairs(x, y, pairs);
  const at::Tensor delta = at::zeros(y.sizes(), y.options().dtype(at::kFloat));
  return at::add(y, AddPairs(x.to(at::kFloat), delta, pairs).to(y.scalar_type()));
}

// What is trained of a linear: a pair of every row or a router, else the expert's pair.
const LeafModule* ModuleFor(const MicroBatchPart& own, Site site, int layer, int32_t expert) {
  const LeafModule* module = own.leaves->Find(site, layer);
  return module == nullptr && own.leaves->routed() != nullptr ? own.leaves->Find(site, layer, expert) : module;
}

}  // namespace

bool TrainableSeam::TrainsBiases(const SiteGroup& group) const {
  for (const MicroBatchPart& part : *parts_) {
    for (const SitePart& site : group.parts) {
      const LeafModule* module = part.leaves->Find(site.site, group.layer);
      if (module != nullptr && module->bias.defined()) return true;
    }
  }
  return false;
}

const MicroBatchPart* TrainableSeam::PartOf(int64_t g, const RowSegments& rows) const {
  const int32_t first = rows.term_starts[g], end = rows.term_starts[g + 1];
  LORAD_CHECK(end - first <= 1);  // a row trains one adapter
  return end > first ? &(*parts_)[rows.terms[first].slot] : nullptr;
}

std::optional<std::vector<PairBlock>> TrainableSeam::PairsAlone(const SiteGroup& group, const at::Tensor& x,
                                                                const RowSegments& rows) const {
  std::vector<PairBlock> blocks;
  if (!x.is_cpu() || !rows.input_rows.empty()) return std::nullopt;
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const MicroBatchPart* const own = PartOf(g, rows);
    const int64_t first = rows.starts[g], count = rows.starts[g + 1] - first;
    if (own == nullptr || count == 0) continue;
    if (own->leaves->routed() != nullptr) return std::nullopt;
    for (const SitePart& part : group.parts) {
      const LeafModule* module = own->leaves->Find(part.site, group.layer);
      if (module == nullptr) continue;
      if (!IsPairAlone(*own, *module)) return std::nullopt;
      blocks.push_back({first, count, part.first_column, part.columns, module->a, module->b, module->scale});
    }
  }
  return blocks;
}

at::Tensor TrainableSeam::FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                       const at::Tensor& base_bias, const RowSegments& rows) {
  if (const auto pairs = PairsAlone(group, x, rows); pairs.has_value()) {
    const at::Tensor finished = pairs->empty() ? y : WithPairs(x, y, *pairs);
    return base_bias.defined() ? at::add(finished, base_bias) : finished;
  }
  // Then each block of columns gets its own; else all get the base's at once.
  const bool trains_biases = base_bias.defined() && TrainsBiases(group);
  const at::Tensor input = rows.input_rows.empty() ? x : GatherRows(x, rows.input_rows);
  std::vector<at::Tensor> row_blocks;
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const int64_t begin = rows.starts[g], count = rows.starts[g + 1] - begin;
    if (count == 0) continue;
    const at::Tensor block_x = input.narrow(0, begin, count), block_y = y.narrow(0, begin, count);
    const MicroBatchPart* const own = PartOf(g, rows);
    std::vector<at::Tensor> columns;
    for (const SitePart& part : group.parts) {
      const at::Tensor block = block_y.narrow(1, part.first_column, part.columns);
      const SlotTerm term = own == nullptr ? SlotTerm{-1, 1.0f} : rows.terms[rows.term_starts[g]];
      const LeafModule* module = own == nullptr ? nullptr : ModuleFor(*own, part.site, group.layer, term.expert);
      if (module != nullptr && module->router.defined()) {
        columns.push_back(AddExperts(*parts_, term.slot, *module, block_x, block, &router_loss_));
      } else {
        columns.push_back(module == nullptr ? block : Apply(*own, *module, block_x, block));
      }
      if (!trains_biases) continue;
      const bool has_bias = module != nullptr && module->bias.defined();
      const at::Tensor bias =
          has_bias ? module->bias.to(y.scalar_type()) : base_bias.narrow(0, part.first_column, part.columns);
      columns.back() = at::add(columns.back(), bias);
    }
    row_blocks.push_back(columns.size() == 1 ? columns[0] : at::cat(columns, 1));
  }
  at::Tensor finished = row_blocks.size() == 1 ? row_blocks[0] : at::cat(row_blocks, 0);
  return base_bias.defined() && !trains_biases ? at::add(finished, base_bias) : finished;
}

RowRouting TrainableSeam::RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) {
  return RouteTrainedRows(*parts_, layer, x, rows, &router_loss_);
}

at::Tensor TrainableSeam::FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) {
  std::vector<at::Tensor> row_blocks;
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const int64_t begin = rows.starts[g], count = rows.starts[g + 1] - begin;
    if (count == 0) continue;
    const at::Tensor block = raw.narrow(0, begin, count);
    const MicroBatchPart* const own = PartOf(g, rows);
    const LeafModule* module = own == nullptr ? nullptr : own->leaves->Find(Site::kEmbedTokens, /*layer=*/-1);
    row_blocks.push_back(module == nullptr ? block : Embedded(*module, ids.narrow(0, begin, count), block));
  }
  return row_blocks.size() == 1 ? row_blocks[0] : at::cat(row_blocks, 0);
}

const NormOverride* TrainableSeam::Norm(int layer, Site site, const RowSegments& rows) {
  norm_.rows.clear();
  const auto in_model = [&](const at::Tensor& leaf) { return leaf.defined() ? leaf.to(dtype_) : leaf; };
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const MicroBatchPart* const own = PartOf(g, rows);
    const LeafModule* module = own == nullptr ? nullptr : own->leaves->Find(site, layer);
    const int64_t begin = rows.starts[g], count = rows.starts[g + 1] - begin;
    if (module == nullptr || count == 0) continue;
    norm_.rows.push_back({begin, count, in_model(module->weight), in_model(module->bias)});
  }
  return norm_.rows.empty() ? nullptr : &norm_;
}

}  // namespace lorad
