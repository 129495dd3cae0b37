#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/ops/autograd/attention_parts.h"
#include "model/ops/autograd/heads.h"

namespace lorad {

// The keys or values of each sequence and kv head in panels of f32 (model/ops/cpu/f32_panels.h), made once for all who
// multiply with them.
class PackedHeads final {
 public:
  // [ceil(tokens / 16)][dim][16]: for products with rows of `dim`.
  static PackedHeads Columns(const AttentionShape& shape, const at::Tensor& x);
  // [ceil(dim / 16)][tokens][16]: for products with rows of one number a token.
  static PackedHeads Rows(const AttentionShape& shape, const at::Tensor& x);

  const float* Of(int64_t sequence, int64_t kv_head) const {
    return floats_.const_data_ptr<float>() + first_[sequence] + kv_head * of_head_[sequence];
  }

 private:
  template <typename Floats, typename Pack>
  PackedHeads(const AttentionShape& shape, const Floats& floats, const Pack& pack);

  at::Tensor floats_;
  std::vector<int64_t> first_;    // of a sequence
  std::vector<int64_t> of_head_;  // floats
};

}  // namespace lorad
