#include "adapters/train/trainable_seam.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sub.h>

#include "adapters/train/leaves.h"
#include "adapters/train/random_order.h"
#include "model/base/check.h"

namespace lorad {
namespace {

uint64_t MaskSeed(const MicroBatchPart& own, const LeafModule& module) {
  return MixSeed(own.dropout_seed,
                 static_cast<uint64_t>(module.layer + 1) * kNumSites + static_cast<uint64_t>(module.site));
}

// x [R, in] f32
at::Tensor Dropped(const at::Tensor& x, const MicroBatchPart& own, const LeafModule& module) {
  if (own.dropout == 0.0) return x;
  at::Tensor mask = at::empty_like(x.detach());
  mask.bernoulli_(1.0 - own.dropout, at::detail::createCPUGenerator(MaskSeed(own, module)));
  return at::mul(x, mask.div_(1.0 - own.dropout));
}

// dropped [R, in], y [R, out], delta [R, out] in the leaves' type
at::Tensor ApplyDora(const MicroBatchPart& own, const LeafModule& module, const at::Tensor& dropped,
                     const at::Tensor& y, const at::Tensor& delta) {
  const at::Tensor factor = module.magnitude / module.norm, wide = y.to(delta.scalar_type());
  if (own.dropout == 0.0) return at::mul(at::add(wide, delta), factor).to(y.scalar_type());
  const at::Tensor base = at::linear(dropped, module.base_weight.to(dropped.scalar_type()));
  const at::Tensor change = at::add(at::mul(base, at::sub(factor, 1.0)), at::mul(delta, factor));
  return at::add(wide, change).to(y.scalar_type());
}

// x [R, in], y [R, out] of one module and the rows of one adapter
at::Tensor Apply(const MicroBatchPart& own, const LeafModule& module, const at::Tensor& x, const at::Tensor& y) {
  const at::ScalarType wide_type = module.a.scalar_type();  // f32; f64 where a test looks at gradients
  const at::Tensor wide = Dropped(x.to(wide_type), own, module);
  const at::Tensor delta = at::mul(at::linear(at::linear(wide, module.a), module.b), module.scale);
  if (module.magnitude.defined()) return ApplyDora(own, module, wide, y, delta);
  if (!module.initial_a.defined()) return at::add(y, delta.to(y.scalar_type()));
  const at::Tensor taken = at::linear(at::linear(x.to(wide_type), module.initial_a), module.initial_b);
  return at::add(y, at::sub(delta, at::mul(taken, module.scale)).to(y.scalar_type()));
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

at::Tensor TrainableSeam::FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                       const at::Tensor& base_bias, const RowSegments& rows) {
  // Then each block of columns gets its own; else all get the base's at once.
  const bool trains_biases = base_bias.defined() && TrainsBiases(group);
  std::vector<at::Tensor> row_blocks;
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const int64_t begin = rows.starts[g], count = rows.starts[g + 1] - begin;
    if (count == 0) continue;
    const at::Tensor block_x = x.narrow(0, begin, count), block_y = y.narrow(0, begin, count);
    LORAD_CHECK(rows.term_starts[g + 1] - rows.term_starts[g] <= 1);  // a row trains one adapter
    const MicroBatchPart* own = nullptr;
    if (rows.term_starts[g + 1] > rows.term_starts[g]) own = &(*parts_)[rows.terms[rows.term_starts[g]].slot];
    std::vector<at::Tensor> columns;
    for (const SitePart& part : group.parts) {
      const at::Tensor block = block_y.narrow(1, part.first_column, part.columns);
      const LeafModule* module = own == nullptr ? nullptr : own->leaves->Find(part.site, group.layer);
      const bool has_pair = module != nullptr && module->a.defined();
      columns.push_back(has_pair ? Apply(*own, *module, block_x, block) : block);
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

RowRouting TrainableSeam::RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) { return {&rows}; }

at::Tensor TrainableSeam::FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) {
  std::vector<at::Tensor> row_blocks;
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const int64_t begin = rows.starts[g], count = rows.starts[g + 1] - begin;
    if (count == 0) continue;
    at::Tensor block = raw.narrow(0, begin, count);
    if (rows.term_starts[g + 1] > rows.term_starts[g]) {
      const MicroBatchPart& own = (*parts_)[rows.terms[rows.term_starts[g]].slot];
      const LeafModule* module = own.leaves->Find(Site::kEmbedTokens, /*layer=*/-1);
      if (module != nullptr) {  // no dropout, as peft
        const at::Tensor columns = at::index_select(module->a, 1, ids.narrow(0, begin, count)).t();
        block = at::add(block, at::mul(at::linear(columns, module->b), module->scale).to(raw.scalar_type()));
      }
    }
    row_blocks.push_back(block);
  }
  return row_blocks.size() == 1 ? row_blocks[0] : at::cat(row_blocks, 0);
}

const NormOverride* TrainableSeam::Norm(int layer, Site site, const RowSegments& rows) { return nullptr; }

}  // namespace lorad
