#pragma once

#include <functional>
#include <memory>
#include <string>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "model/adapter_seam.h"
#include "model/base/dtype.h"
#include "model/config.h"
#include "model/forward_batch.h"
#include "model/kv/kv_layout.h"
#include "model/layers/weight_rows.h"
#include "model/quantization.h"
#include "model/sites.h"

namespace lorad {

struct PlacedBatch;

struct LoadOptions {
  DType dtype = DType::kF32;     // kF32 or kBF16; the daemon resolves "auto"
  at::Device device = at::kCPU;  // or a CUDA device, whose operators are installed (model/ops/open_cuda.h)
  Quantization quantization = Quantization::kNone;
  // Bytes of weights read so far and in all; called now and then on the loading thread.
  std::function<void(int64_t done_bytes, int64_t total_bytes)> progress = nullptr;
};

// What runs between two layers.
struct HiddenRows {
  at::Tensor residual;  // [T, H]
  at::Tensor pending;   // [T, H], to be added to it by the next norm, or undefined
};

// A frozen decoder read from an HF folder. Knows no adapter kinds and no requests.
//
// Threads  Load once; Forward from one thread at a time.
// Errors   Load: NotFound, InvalidArgument, Unimplemented, DataLoss as the readers say.
//          All that compute: ResourceExhausted when memory ran out; Internal for a batch that contradicts
//          itself.
class CausalLm final {
 public:
  static absl::StatusOr<std::unique_ptr<CausalLm>> Load(const std::string& model_dir, const LoadOptions& options);
  ~CausalLm();

  const ModelConfig& config() const;
  const BaseShape& base_shape() const;
  KvLayout kv_layout() const;  // in the model's dtype
  DType dtype() const;
  at::Device device() const;
  Quantization quantization() const;
  int64_t weight_bytes() const;
  // Of config.json and the sizes, names and dtypes of every tensor, a sample of each one's bytes, and the quantisation
  // if there is one; hex.
  const std::string& digest() const;

  // Writes k and v of the batch's rows; logits [L, >= vocab] fp32 of batch.logit_rows, adapters' own tokens behind. The
  // batch and the logits are the host's, the cache and what the seam reads are the model's device's. When this returns
  // the device is done with the step.
  absl::StatusOr<at::Tensor> Forward(const ForwardBatch& batch, const KvView& kv, AdapterSeam& seam);
  // The same, but the logits are the device's, which may still be at work, also where this fails: before anybody else
  // gets what the step uses, the caller waits (model/device_step.h).
  absl::StatusOr<at::Tensor> ForwardOnDevice(const ForwardBatch& batch, const KvView& kv, AdapterSeam& seam);
  // The same of a batch that is on the device already, which may have rows more than on_host, for launches that are
  // captured (model/step_graphs.h): nothing is copied to the device, and with a BaseOnlySeam or a GraphSeam the host
  // waits for nothing, but on a routed base whose rows it deals (DealsOnDevice). on_host.max_context_tokens bounds the
  // positions.
  absl::StatusOr<at::Tensor> ForwardPlaced(const PlacedBatch& batch, const KvView& kv, AdapterSeam& seam);
  // Raised when tables of the model's that launches read have moved: rope's, which grow with the contexts.
  int64_t table_moves() const;

  // The same forward in pieces and without a cache, for training: the batch's sequences are whole and told of by
  // sequence_tokens; its kv_slots and block_table are not read. Where gradients are enabled, what depends on something
  // that wants one is recorded; base weights never want one. Inputs are not written. On a device nothing waits for it.
  absl::StatusOr<HiddenRows> Embed(const PlacedBatch& batch, AdapterSeam& seam);
  absl::StatusOr<HiddenRows> RunLayer(int64_t layer, const HiddenRows& in, const PlacedBatch& batch, AdapterSeam& seam);
  // -> [L, vocab] fp32 of batch.logit_rows, on the model's device
  absl::StatusOr<at::Tensor> Logits(const HiddenRows& in, const PlacedBatch& batch, AdapterSeam& seam);
  // Waits until the device has done all that was asked of it on this thread.
  void AwaitDevice() const;

  // W [out, in] of a linear where it lies, of the embedding [hidden, vocabulary]; none where the model has none such,
  // or has it in panels that are not quantised.
  WeightRows WeightOf(Site site, int layer) const;

 private:
  struct Impl;
  explicit CausalLm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lorad
