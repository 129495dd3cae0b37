#include "adapters/apply.h"

#include <algorithm>
#include <vector>

#include <ATen/ops/zeros.h>

#include "adapters/ops/replaced_rows.h"
#include "adapters/ops/segmented_gemm.h"
#include "adapters/apply_routing.h"
#include "adapters/slot_tensor.h"
#include "model/base/check.h"
#include "model/base/guarded.h"

namespace lorad {
namespace {

constexpr int kNoLayer = -1;

at::Tensor VectorOf(const std::byte* data, int64_t width, DType dtype, at::Device device) {
  const at::ScalarType type = dtype == DType::kF32 ? at::kFloat : at::kBFloat16;
  return SlotTensor(data, {width}, type, device);
}

// With room for the logits of adapters' own tokens, 0 where a row has none.
at::Tensor Widened(const at::Tensor& y, int64_t columns) {
  at::Tensor wide = at::zeros({y.size(0), columns}, y.options());
  wide.narrow(1, 0, y.size(1)).copy_(y);
  return wide;
}

}  // namespace

SlotSeam::Use SlotSeam::UseAt(Site site, int layer, const RowSegments& rows) const {
  const SlotWeights* weights = slots_.At(site, layer);
  Use use;
  for (const SlotTerm& term : rows.terms) {
    LORAD_CHECK(term.slot >= 0 && term.slot < slots_.slots());  // a lease holds its slot for the whole step
    use.adds |= weights[term.slot].adds();
    use.replaces |= weights[term.slot].replaces();
    use.routes |= weights[term.slot].routes();
    use.end_of_rows = std::max(use.end_of_rows, weights[term.slot].end_of_rows);
  }
  return use;
}

at::Tensor SlotSeam::FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                  const at::Tensor& base_bias, const RowSegments& rows) {
  std::vector<SegmentedGemmPart> parts;
  for (const SitePart& part : group.parts) {
    const SlotWeights* slots = slots_.At(part.site, group.layer);
    const Use use = UseAt(part.site, group.layer, rows);
    if (use.replaces) {  // the head, alone in its group
      if (use.end_of_rows > part.columns) y = Widened(y, use.end_of_rows);
      ThrowIfError(ReplaceHeadRows({x, y, slots, slots_.slots(), rows}));
    }
    if (use.adds) parts.push_back({slots, part.first_column, part.columns});
  }
  if (!parts.empty()) ThrowIfError(SegmentedGemm({x, y, parts, slots_.slots(), rows}));
  if (base_bias.defined()) y.add_(base_bias);
  return y;
}

bool SlotSeam::FinishesDealt(int layer, const RowSegments& rows) {
  return !UseAt(Site::kExpertGateUp, layer, rows).adds && !UseAt(Site::kExpertDown, layer, rows).adds;
}

RowRouting SlotSeam::RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) {
  if (!UseAt(Site::kFfn, layer, rows).routes) return {&rows};
  return RouteRows(slots_, layer, x, rows);
}

at::Tensor SlotSeam::FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) {
  const SlotWeights* slots = slots_.At(Site::kEmbedTokens, kNoLayer);
  const Use use = UseAt(Site::kEmbedTokens, kNoLayer, rows);
  if (use.replaces) ThrowIfError(ReplaceEmbeddingRows({ids, raw, slots, slots_.slots(), rows}));
  if (use.adds) ThrowIfError(SegmentedEmbedding({ids, raw, slots, slots_.slots(), slots_.vocab_size(), rows}));
  return raw;
}

const NormOverride* SlotSeam::Norm(int layer, Site site, const RowSegments& rows) {
  if (!slots_.AnyReplaces(site)) return nullptr;
  const SlotWeights* slots = slots_.At(site, layer);
  norm_.rows.clear();
  for (int64_t g = 0; g < rows.groups(); ++g) {
    const int64_t first = rows.starts[g], count = rows.starts[g + 1] - first;
    for (int32_t t = rows.term_starts[g]; count > 0 && t < rows.term_starts[g + 1]; ++t) {
      const SlotWeights& own = slots[rows.terms[t].slot];
      if (!own.replaces()) continue;
      NormOverride::Rows replaced{.first = first, .count = count, .weight = {}, .bias = {}};
      replaced.weight = VectorOf(own.rows, own.width, slots_.dtype(), device_);
      if (own.num_rows > 1) {
        replaced.bias = VectorOf(own.rows + own.width * SizeBytes(slots_.dtype()), own.width, slots_.dtype(), device_);
      }
      norm_.rows.push_back(std::move(replaced));
      break;  // a request has one replacement of a module at most
    }
  }
  return norm_.rows.empty() ? nullptr : &norm_;
}

}  // namespace lorad
