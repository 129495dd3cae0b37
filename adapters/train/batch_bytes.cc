#include "adapters/train/batch_bytes.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "adapters/train/micro_batch.h"
#include "adapters/train/routed_places.h"
#include "adapters/train/trained_modules.h"
#include "model/base/status_macros.h"
#include "model/ops/autograd/query_attention.h"

namespace lorad {
namespace {

constexpr int64_t kFloat = 4;  // bytes

struct Widths {
  int64_t in = 0;
  int64_t out = 0;
};

// The wider of all layers, in each way.
class LayerWidths final {
 public:
  void Add(int32_t layer, int64_t in, int64_t out) {
    if (layer < 0) return;
    Widths& widths = layers_[layer];
    widths.in += in;
    widths.out += out;
  }
  void Put(AdapterWidths* to) const {
    for (const auto& [layer, widths] : layers_) {
      to->in = std::max(to->in, widths.in);
      to->out = std::max(to->out, widths.out);
    }
  }

 private:
  std::map<int32_t, Widths> layers_;
};

absl::StatusOr<AdapterWidths> WidthsOfRouted(const RoutedTraining& routed, double dropout, const BaseShape& base) {
  AdapterWidths widths;
  widths.experts = routed.moe.routing.Choices(routed.moe.experts);
  widths.drops = dropout > 0 || routed.expert_dropout > 0;
  ASSIGN_OR_RETURN(const std::vector<RoutedPlace> places, SelectRoutedPlaces(routed.moe, base));
  LayerWidths layers;
  for (const RoutedPlace& place : places) {
    if (place.pairs == 0) continue;
    const int64_t times = place.pairs > 1 ? std::max<int64_t>(1, widths.experts) : 1;
    layers.Add(place.layer, times * place.in_features, times * place.out_features);
    widths.scales = widths.scales || place.rank.dora;
  }
  layers.Put(&widths);
  return widths;
}

// Of a row and a layer what its backward keeps on a device, the adapter's too.
int64_t LayerRowBytes(const ModelConfig& model, DType dtype, const AdapterWidths& adapter) {
  int64_t bytes = RecordedRowBytes(model, adapter.experts);
  if (dtype != DType::kF32) bytes += kFloat * adapter.in;  // inputs of pairs are widened
  if (adapter.drops) bytes += (kFloat + 1) * adapter.in;   // and dropped, by a byte each
  if (adapter.experts > 0)
    bytes += kFloat * (adapter.in + 2 * adapter.out);     // of each expert, before they are put together
  if (adapter.scales) bytes += 3 * kFloat * adapter.out;  // what is scaled is widened, too
  return bytes;
}

}  // namespace

absl::StatusOr<AdapterWidths> WidthsOf(const TrainConfig& config, const BaseShape& base) {
  if (config.routed.has_value()) return WidthsOfRouted(*config.routed, config.dropout, base);
  AdapterWidths widths;
  widths.drops = config.dropout > 0;
  widths.scales = config.adapter.use_dora;
  using Selected = std::map<std::string, TrainedModule>;
  ASSIGN_OR_RETURN(const Selected selected, SelectTrained(config, base));
  LayerWidths layers;
  for (const auto& [path, trained] : selected) {
    const SiteShape& shape = *trained.module.shape;
    if (trained.pair) layers.Add(trained.module.layer, shape.in_features, shape.out_features);
    if (trained.weight) widths.whole_elements = std::max(widths.whole_elements, shape.in_features * shape.out_features);
  }
  layers.Put(&widths);
  return widths;
}

AdapterWidths WidestOf(const BaseShape& base) {
  AdapterWidths widths = {.drops = true, .scales = true};
  for (const SiteShape& shape : base.sites) {
    if (!shape.per_layer || IsNorm(shape.site) || shape.experts > 1) continue;
    widths.in += shape.in_features;
    widths.out += shape.out_features;
  }
  return widths;
}

int64_t RecordedRowBytes(const ModelConfig& model, int64_t adapter_experts) {
  const RoutedFfnConfig& base = model.routed;
  return kFloat * ((16 + 4 * adapter_experts + 4 * base.experts_per_token) * model.hidden_size +
                   (6 + 6 * adapter_experts) * model.intermediate_size +
                   6 * (base.experts_per_token * base.intermediate_size + base.shared_intermediate_size));
}

int64_t BatchBytes(const ModelConfig& model, DType dtype, const AdapterWidths& adapter, const BatchShape& batch,
                   int64_t kept_bytes) {
  const int64_t value_bytes = dtype == DType::kF32 ? 4 : 2, rows = std::max<int64_t>(1, batch.rows);
  // The input of every layer in two parts, and the gradients of one; a layer that is computed again, and those that
  // were kept.
  const int64_t inputs = 2 * value_bytes * (model.num_layers + 2) * model.hidden_size;
  const int64_t of_layer = LayerRowBytes(model, dtype, adapter);
  const int64_t kept_rows = std::min(model.num_layers * rows, kept_bytes / RecordedRowBytes(model, adapter.experts));
  // Of one sequence q's, k's and v's gradients and what is widened; heads may be wider than rows.
  const int64_t heads = 4 * kFloat * (model.num_heads + 2 * model.num_kv_heads) * model.head_dim;
  // The head's logits, their softmax and gradients.
  const int64_t head_rows = std::min(rows, HeadRowsOnDevice(model.vocab_size));
  const int64_t head = head_rows * model.vocab_size * (4 * kFloat + 2 * value_bytes) + 4 * kFloat * rows;
  return rows * inputs + (rows + kept_rows) * of_layer + batch.longest_tokens * heads +
         ScoreBytes(model.num_heads, batch.longest_tokens, model.attention_softcap > 0) + head +
         adapter.whole_elements * (kFloat + value_bytes);
}

}  // namespace lorad
