#pragma once

#include <variant>

#include <ATen/core/Tensor.h>

#include "model/layers/mlp.h"
#include "model/layers/moe.h"

namespace lorad {

// A layer's FFN: dense, or routed where the configuration says so.
class FfnLayer final {
 public:
  FfnLayer(const ModelConfig& config, int layer, WeightLoader& weights);

  // x [T, H] -> [T, H]
  at::Tensor Forward(const at::Tensor& x, const StepContext& step) const {
    return std::visit([&](const auto& ffn) { return ffn.Forward(x, step); }, ffn_);
  }

  // As LinearLayer's; none of one with experts.
  WeightRows WeightOf(Site site) const {
    const MlpLayer* const dense = std::get_if<MlpLayer>(&ffn_);
    return dense == nullptr ? WeightRows() : dense->WeightOf(site);
  }

 private:
  std::variant<MlpLayer, MoeLayer> ffn_;
};

}  // namespace lorad
