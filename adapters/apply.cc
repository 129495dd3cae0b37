#include "adapters/apply.h"

#include <algorithm>
#include <vector>

#include "adapters/ops/segmented_gemm.h"
#include "model/base/check.h"
#include "model/base/guarded.h"

namespace lorad {

bool SlotSeam::AnyTouches(Site site, int layer, const RowSegments& rows) const {
  return std::any_of(rows.terms.begin(), rows.terms.end(), [&](const SlotTerm& term) {
    LORAD_CHECK(term.slot >= 0 && term.slot < slots_.slots());  // a lease holds its slot for the whole step
    return slots_.AnyAt(site, layer, term.slot);
  });
}

at::Tensor SlotSeam::FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y,
                                  const at::Tensor& base_bias, const RowSegments& rows) {
  std::vector<SegmentedGemmPart> parts;
  for (const SitePart& part : group.parts) {
    if (!AnyTouches(part.site, group.layer, rows)) continue;
    parts.push_back({slots_.At(part.site, group.layer), part.first_column, part.columns});
  }
  if (!parts.empty()) ThrowIfError(SegmentedGemm({x, y, parts, slots_.slots(), rows}));
  if (base_bias.defined()) y.add_(base_bias);
  return y;
}

RowRouting SlotSeam::RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) { return {&rows}; }

at::Tensor SlotSeam::FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) {
  constexpr int kNoLayer = -1;
  if (!AnyTouches(Site::kEmbedTokens, kNoLayer, rows)) return raw;
  ThrowIfError(SegmentedEmbedding(
      {ids, raw, slots_.At(Site::kEmbedTokens, kNoLayer), slots_.slots(), slots_.vocab_size(), rows}));
  return raw;
}

const NormOverride* SlotSeam::Norm(int layer, Site site, const RowSegments& rows) { return nullptr; }

}  // namespace lorad
