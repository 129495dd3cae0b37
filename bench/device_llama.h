#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "bench/llama_folder.h"
#include "model/causal_lm.h"

namespace lorad::bench {

// A Llama in bf16 on cuda:0 whose weights are drawn there: no file of its size is written or read.
class DeviceLlama final {
 public:
  explicit DeviceLlama(const ModelShape& shape);

  CausalLm& model() { return *model_; }
  const ModelShape& shape() const { return shape_; }
  const std::string& folder() const { return folder_.path(); }

  // What a decode step reads of the weights: all of them but the embedding's table, of which it reads a row a token.
  int64_t step_weight_bytes() const;
  int64_t kv_token_bytes() const;
  // Of a prompt's tokens, whose head is computed for the last one alone.
  double PrefillFlops(int64_t prompt_tokens) const;

 private:
  const ModelShape shape_;
  const LlamaFolder folder_;
  std::unique_ptr<CausalLm> model_;
};

// What the device does at best, as measured by LibTorch's own kernels.
struct DeviceSpeed {
  double bytes_per_second;  // of memory, the better of reading alone and copying, whose bytes count twice
  double bf16_flops;        // of a square product
};
// Of tensors of `bytes`, and matrices [side, side].
DeviceSpeed MeasureDevice(int64_t bytes, int64_t side);

}  // namespace lorad::bench
