#include "adapters/train/trainable_seam.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mul.h>

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

// x [R, in], y [R, out] of one module and the rows of one adapter
at::Tensor Apply(const MicroBatchPart& own, const LeafModule& module, const at::Tensor& x, const at::Tensor& y) {
  const at::ScalarType wide_type = module.a.scalar_type();  // f32; f64 where a test looks at gradients
  const at::Tensor wide = Dropped(x.to(wide_type), own, module);
  const at::Tensor delta = at::mul(at::linear(at::linear(wide, module.a), module.b), module.scale);
  if (!module.magnitude.defined()) return at::add(y, delta.to(y.scalar_type()));
  const at::Tensor factor = module.magnitude / module.norm;
  return at::mul(at::add(y.to(wide_type), delta), factor).to(y.scalar_type());
}

}  // namespace

at::Tensor TrainableSeam::FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                       const at::Tensor& base_bias, const RowSegments& rows) {
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
      columns.push_back(module == nullptr ? block : Apply(*own, *module, block_x, block));
    }
    row_blocks.push_back(columns.size() == 1 ? columns[0] : at::cat(columns, 1));
  }
  at::Tensor finished = row_blocks.size() == 1 ? row_blocks[0] : at::cat(row_blocks, 0);
  return base_bias.defined() ? at::add(finished, base_bias) : finished;
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
