#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lorad {

enum class LossKind : uint8_t {
  kCrossEntropy,        // -w log p
  kImportanceSampling,  // -A r, with r = p / p_old
  kPpo,                 // -min(A r, A clip(r)): arXiv 1707.06347, equation 7
};

// What the rows of one sequence group are trained for; each loss is a function of its target's log-probability alone.
// Source: Tinker's forward_backward, whose losses are sums over tokens.
struct RowLoss {
  LossKind kind = LossKind::kCrossEntropy;
  double scale = 1.0;  // of every row's loss, where it is followed down
  double clip_low = 0.8;
  double clip_high = 1.2;
  // By trained row; empty = ones, but importance_sampling and ppo need both of the last two.
  std::vector<float> weights;
  std::vector<float> advantages;
  std::vector<float> old_logprobs;
};

struct LossValue {
  double loss = 0;        // unscaled
  double derivative = 0;  // of scale times it, by the log-probability
};

LossValue LossOf(const RowLoss& loss, size_t trained_row, double logprob);

}  // namespace lorad
