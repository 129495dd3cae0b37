#pragma once

#include <cstdint>
#include <vector>

#include "model/ops/autograd/sequence_attention.h"

namespace torch::autograd {
struct AutogradContext;
}

namespace lorad {

// What is the same for all heads and sequences of an attention, kept from its forward to its backward.
struct AttentionShape {
  int64_t heads;
  int64_t kv_heads;
  int64_t dim;
  int64_t window_tokens;  // 0: none
  float scale;
  float softcap;                // 0: none
  std::vector<int64_t> starts;  // first rows of the sequences, and the end of the last

  int64_t group() const { return heads / kv_heads; }
  int64_t sequences() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t tokens_of(int64_t sequence) const { return starts[sequence + 1] - starts[sequence]; }

  static AttentionShape Of(const SequenceAttentionArgs& args);
  void Save(torch::autograd::AutogradContext* context) const;
  static AttentionShape Saved(torch::autograd::AutogradContext* context);
};

}  // namespace lorad
