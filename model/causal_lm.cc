#include "model/causal_lm.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>

#include "absl/strings/str_cat.h"
#include "model/arch/table.h"
#include "model/base/check.h"
#include "model/base/file_source.h"
#include "model/base/guarded.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "model/check_batch.h"
#include "model/device_step.h"
#include "model/layers/block.h"
#include "model/layers/embedding.h"
#include "model/layers/head.h"
#include "model/safetensors_checkpoint.h"
#include "model/weights.h"

namespace lorad {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

// Hashing gigabytes at every start would cost seconds: three samples of each tensor tell checkpoints apart.
std::string DigestOf(const std::string& config_text, const Checkpoint& checkpoint, Quantization quantization) {
  constexpr int64_t kSampleBytes = 4096;
  Sha256 hash;
  const auto add_text = [&](absl::string_view text) {
    hash.UpdateInt(static_cast<int64_t>(text.size()));
    hash.Update(text);
  };
  add_text(config_text);
  for (const auto& [name, tensor] : checkpoint) {
    add_text(name);
    hash.UpdateInt(static_cast<int64_t>(tensor.dtype));
    hash.UpdateInt(static_cast<int64_t>(tensor.shape.size()));
    for (const int64_t dim : tensor.shape) hash.UpdateInt(dim);
    const int64_t sample = std::min(kSampleBytes, tensor.size_bytes);
    const int64_t last = tensor.size_bytes - sample;
    for (const int64_t at : {int64_t{0}, last / 2, last}) hash.Update(tensor.data + at, static_cast<size_t>(sample));
  }
  if (quantization != Quantization::kNone) add_text(std::string(Name(quantization)));  // it answers as another model
  return hash.HexDigest();
}

// HF ties when it is told to, but newer versions do not if the file has a head of its own with other values.
absl::Status CheckTiedHead(const MatchedWeights& weights) {
  const auto head = weights.find({WeightName::kLmHead});
  if (head == weights.end()) return absl::OkStatus();
  const StoredTensor& table = weights.at({WeightName::kEmbedTokens});
  if (head->second.dtype == table.dtype && std::equal(table.data, table.data + table.size_bytes, head->second.data)) {
    return absl::OkStatus();
  }
  return absl::DataLossError(
      "tie_word_embeddings: true, but lm_head.weight differs from model.embed_tokens.weight; programs disagree on "
      "which "
      "one counts; set tie_word_embeddings to false to use both");
}

}  // namespace

struct CausalLm::Impl {
  Impl(ModelConfig model_config, const LoadOptions& options, WeightLoader& weights)
      : config(std::move(model_config)),
        shape(BaseShapeOf(config)),
        dtype(options.dtype),
        quantization(options.quantization),
        device(options.device),
        rope(config.rope, config.rope_switch, config.max_context_tokens, TensorsLike()),
        local_rope(config.local_rope.value_or(config.rope), config.rope_switch, config.max_context_tokens,
                   TensorsLike()),
        embed(config, weights),
        blocks(LoadBlocks(config, weights)),
        head(config, embed.table(), weights),
        weight_bytes(weights.loaded_bytes()) {}

  static std::vector<BlockLayer> LoadBlocks(const ModelConfig& config, WeightLoader& weights) {
    std::vector<BlockLayer> blocks;
    blocks.reserve(static_cast<size_t>(config.num_layers));
    for (int layer = 0; layer < config.num_layers; ++layer) blocks.emplace_back(config, layer, weights);
    return blocks;
  }

  at::TensorOptions TensorsLike() const { return at::TensorOptions().dtype(ToScalarType(dtype)).device(device); }

  // Logits on the device.
  at::Tensor Forward(const ForwardBatch& given, const KvView& kv, AdapterSeam& seam);
  // The given batch, and the same on the device.
  at::Tensor Forward(const ForwardBatch& given, const ForwardBatch& batch, const KvView& kv, AdapterSeam& seam);
  // Calls fn with the context of a step without a cache.
  template <typename Fn>
  auto WithoutCache(const PlacedBatch& batch, AdapterSeam& seam, const Fn& fn) {
    const KvView no_cache;
    const c10::DeviceGuard current(device);
    const RopeRows rope_rows = rope.RowsOf(batch.on_host, batch.on_device.positions);
    const RopeRows local_rope_rows =
        config.local_rope.has_value() ? local_rope.RowsOf(batch.on_host, batch.on_device.positions) : rope_rows;
    return fn(StepContext{batch.on_device, no_cache, seam, rope_rows, local_rope_rows});
  }

  const ModelConfig config;
  const BaseShape shape;
  const DType dtype;
  const Quantization quantization;
  const at::Device device;
  Rope rope;
  Rope local_rope;  // of the layers with a window
  const EmbeddingLayer embed;
  const std::vector<BlockLayer> blocks;
  const HeadLayer head;
  const int64_t weight_bytes;
  std::string digest;
};

at::Tensor CausalLm::Impl::Forward(const ForwardBatch& given, const KvView& kv, AdapterSeam& seam) {
  if (device.is_cpu()) return Forward(given, given, kv, seam);
  const c10::DeviceGuard current(device);
  return WithDeviceMemory([&] { return Forward(given, BatchOn(device, given), kv, seam); });
}

at::Tensor CausalLm::Impl::Forward(const ForwardBatch& given, const ForwardBatch& batch, const KvView& kv,
                                   AdapterSeam& seam) {
  const RopeRows rope_rows = rope.RowsOf(given, batch.positions);
  const RopeRows local_rope_rows =
      config.local_rope.has_value() ? local_rope.RowsOf(given, batch.positions) : rope_rows;
  const StepContext step{batch, kv, seam, rope_rows, local_rope_rows};
  at::Tensor residual = embed.Forward(batch, seam);
  at::Tensor pending;
  for (const BlockLayer& block : blocks) pending = block.Forward(residual, pending, step);
  return head.Forward(std::move(residual), std::move(pending), step);
}

CausalLm::CausalLm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CausalLm::~CausalLm() = default;

absl::StatusOr<std::unique_ptr<CausalLm>> CausalLm::Load(const std::string& model_dir, const LoadOptions& options) {
  if (options.dtype != DType::kF32 && options.dtype != DType::kBF16) {
    const std::string_view name = Name(options.dtype);
    return absl::UnimplementedError(
        absl::StrCat("dtype: ", std::string(name), "; not supported: computes in F32 or BF16"));
  }
  ASSIGN_OR_RETURN(ModelConfig config, ReadModelConfig(model_dir));
  ASSIGN_OR_RETURN(const std::string config_text,
                   ReadWholeFile(*LocalFiles(), absl::StrCat(model_dir, "/config.json"), kMaxConfigBytes));
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenCausalCheckpoint(model_dir));
  const Architecture* architecture = FindArchitecture(config.architecture);
  LORAD_CHECK(architecture != nullptr);
  ASSIGN_OR_RETURN(MatchedWeights matched, MatchWeights(architecture->weights(config), config.num_layers, checkpoint));
  if (config.tied_embeddings) RETURN_IF_ERROR(CheckTiedHead(matched));
  return Guarded([&]() -> absl::StatusOr<std::unique_ptr<CausalLm>> {
    WeightLoader weights(std::move(matched), ToScalarType(options.dtype), options.quantization, options.progress,
                         options.device);
    auto impl = WithDeviceMemory([&] { return std::make_unique<Impl>(std::move(config), options, weights); });
    impl->digest = DigestOf(config_text, checkpoint, options.quantization);
    return std::unique_ptr<CausalLm>(new CausalLm(std::move(impl)));
  });
}

const ModelConfig& CausalLm::config() const { return impl_->config; }
const BaseShape& CausalLm::base_shape() const { return impl_->shape; }
DType CausalLm::dtype() const { return impl_->dtype; }
at::Device CausalLm::device() const { return impl_->device; }
Quantization CausalLm::quantization() const { return impl_->quantization; }
int64_t CausalLm::weight_bytes() const { return impl_->weight_bytes; }
const std::string& CausalLm::digest() const { return impl_->digest; }

KvLayout CausalLm::kv_layout() const {
  return {impl_->config.num_layers, impl_->config.num_kv_heads, impl_->config.head_dim, impl_->dtype};
}

absl::StatusOr<at::Tensor> CausalLm::Forward(const ForwardBatch& batch, const KvView& kv, AdapterSeam& seam) {
  const QuietAtEnd quiet(device());
  ASSIGN_OR_RETURN(const at::Tensor logits, ForwardOnDevice(batch, kv, seam));
  return GuardedOnDevice([&]() -> absl::StatusOr<at::Tensor> { return ToHost(logits); });
}

absl::StatusOr<at::Tensor> CausalLm::ForwardOnDevice(const ForwardBatch& batch, const KvView& kv, AdapterSeam& seam) {
  RETURN_IF_ERROR(CheckBatch(batch, impl_->config, kv_layout(), kv.layout));
  return GuardedOnDevice([&]() -> absl::StatusOr<at::Tensor> {
    const c10::InferenceMode no_autograd;
    return impl_->Forward(batch, kv, seam);
  });
}

absl::StatusOr<at::Tensor> CausalLm::ForwardPlaced(const PlacedBatch& batch, const KvView& kv, AdapterSeam& seam) {
  RETURN_IF_ERROR(CheckBatch(batch.on_host, impl_->config, kv_layout(), kv.layout));
  return GuardedOnDevice([&]() -> absl::StatusOr<at::Tensor> {
    const c10::InferenceMode no_autograd;
    const c10::DeviceGuard current(impl_->device);
    return impl_->Forward(batch.on_host, batch.on_device, kv, seam);
  });
}

int64_t CausalLm::table_moves() const { return impl_->rope.moves() + impl_->local_rope.moves(); }

absl::StatusOr<HiddenRows> CausalLm::Embed(const PlacedBatch& batch, AdapterSeam& seam) {
  return GuardedOnDevice([&]() -> absl::StatusOr<HiddenRows> {
    const c10::DeviceGuard current(impl_->device);
    return HiddenRows{impl_->embed.Forward(batch.on_device, seam), at::Tensor()};
  });
}

absl::StatusOr<HiddenRows> CausalLm::RunLayer(int64_t layer, const HiddenRows& in, const PlacedBatch& batch,
                                              AdapterSeam& seam) {
  return GuardedOnDevice([&]() -> absl::StatusOr<HiddenRows> {
    return impl_->WithoutCache(batch, seam, [&](const StepContext& step) {
      HiddenRows out;
      out.residual = in.residual.clone();  // A block adds to it in place where nothing is recorded.
      out.pending = impl_->blocks.at(static_cast<size_t>(layer)).Forward(out.residual, in.pending, step);
      return out;
    });
  });
}

absl::StatusOr<at::Tensor> CausalLm::Logits(const HiddenRows& in, const PlacedBatch& batch, AdapterSeam& seam) {
  return GuardedOnDevice([&]() -> absl::StatusOr<at::Tensor> {
    return impl_->WithoutCache(batch, seam, [&](const StepContext& step) {
      return impl_->head.Forward(in.residual.clone(), in.pending, step);
    });
  });
}

void CausalLm::AwaitDevice() const { lorad::AwaitDevice(impl_->device); }

WeightRows CausalLm::WeightOf(Site site, int layer) const {
  if (layer >= 0) return impl_->blocks.at(static_cast<size_t>(layer)).WeightOf(site);
  const WeightRows of_embedding = impl_->embed.WeightOf(site);
  return of_embedding.defined() ? of_embedding : impl_->head.WeightOf(site);
}

}  // namespace lorad
