#include "adapters/train/row_loss.h"

#include <algorithm>
#include <cmath>

namespace lorad {

LossValue LossOf(const RowLoss& loss, size_t trained_row, double logprob) {
  const double weight = loss.weights.empty() ? 1.0 : loss.weights[trained_row];
  if (loss.kind == LossKind::kCrossEntropy) return {-weight * logprob, -weight * loss.scale};
  const double advantage = weight * loss.advantages[trained_row];
  const double ratio = std::exp(logprob - loss.old_logprobs[trained_row]);
  double gain = advantage * ratio, slope = gain;  // d ratio / d logprob is the ratio itself
  if (loss.kind == LossKind::kPpo) {
    const double clipped = advantage * std::clamp(ratio, loss.clip_low, loss.clip_high);
    if (clipped < gain) gain = clipped, slope = 0;
  }
  return {-gain, -slope * loss.scale};
}

}  // namespace lorad
