#include "model/layers/ffn.h"

#include <algorithm>

namespace lorad {
namespace {

std::variant<MlpLayer, MoeLayer> LoadFfn(const ModelConfig& config, int layer, WeightLoader& weights) {
  const std::vector<int32_t>& routed = config.routed.layers;
  if (std::binary_search(routed.begin(), routed.end(), layer)) return MoeLayer(config, layer, weights);
  return MlpLayer(config, layer, weights);
}

}  // namespace

FfnLayer::FfnLayer(const ModelConfig& config, int layer, WeightLoader& weights)
    : ffn_(LoadFfn(config, layer, weights)) {}

}  // namespace lorad
