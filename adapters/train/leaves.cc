#include "adapters/train/leaves.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "adapters/kinds/peft_targets.h"
#include "adapters/train/random_order.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"
#include "model/weights.h"

namespace lorad {
namespace {

const at::TensorOptions kLeafOptions = at::TensorOptions().dtype(at::kFloat);

at::Tensor FreshA(const TrainConfig& config, int64_t rank, int64_t in, uint64_t seed) {
  at::Tensor a = at::empty({rank, in}, kLeafOptions);
  at::Generator generator = at::detail::createCPUGenerator(seed);
  if (config.init == LeafInit::kGaussian) return a.normal_(0.0, 1.0 / static_cast<double>(rank), generator);
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  return a.uniform_(-bound, bound, generator);
}

at::Tensor NormalB(int64_t out, int64_t rank, uint64_t seed) {
  return at::empty({out, rank}, kLeafOptions).normal_(0.0, 1.0, at::detail::createCPUGenerator(seed));
}

// The lowest layer whose input a gradient of the module's has to reach; -1: what comes before all layers.
int64_t FirstLayerOf(const LeafModule& module, int64_t num_layers) {
  if (module.layer >= 0) return module.layer;
  return module.site == Site::kEmbedTokens || module.site == Site::kProjectIn ? -1 : num_layers;
}

at::Tensor WeightOf(const BaseTable& table) {
  void* data = const_cast<std::byte*>(table.data);  // LibTorch has no const tensors; nothing writes it.
  return at::from_blob(data, {table.rows, table.columns}, at::TensorOptions().dtype(ToScalarType(table.dtype)));
}

absl::Status CheckTrainable(const std::string& path, Site site, const TrainConfig& config) {
  if (site == Site::kEmbedTokens && config.adapter.use_dora) {
    return absl::UnimplementedError(absl::StrCat("adapter.kind: dora on ", path, "; not supported: leave it out"));
  }
  return absl::OkStatus();
}

// at::Tensor's data from a file's tensor, widened.
absl::Status CopyInto(const std::string& path, const HostTensor& from, at::Tensor to) {
  if (from.elements() != to.numel() || !from.present()) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: ", path, ": elements: ", from.elements(),
                                                   "; limit: ", to.numel(), ", as the spec's rank says"));
  }
  ToF32(from.dtype, from.data(), from.elements(), to.mutable_data_ptr<float>());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AdapterLeaves> AdapterLeaves::Create(const TrainConfig& config, const BaseShape& base,
                                                    const BaseTables& base_tables) {
  using Targets = std::map<std::string, TargetedModule>;
  ASSIGN_OR_RETURN(const Targets targets, SelectTargets(config.adapter, base));
  AdapterLeaves leaves;
  leaves.first_layer_ = base.num_layers;
  for (const auto& [path, target] : targets) {
    RETURN_IF_ERROR(CheckTrainable(path, target.shape->site, config));
    LeafModule module;
    module.path = path;
    module.site = target.shape->site;
    module.layer = target.layer;
    module.scale = target.scale;
    const uint64_t seed = MixSeed(config.seed, leaves.modules_.size());
    const absl::Status status = Guarded([&]() -> absl::Status {
      const int64_t in = target.shape->in_features, out = target.shape->out_features;
      if (module.site == Site::kEmbedTokens) {  // As peft: the other way round.
        module.a = at::zeros({target.rank, in}, kLeafOptions);
        module.b = NormalB(out, target.rank, seed);
      } else {
        module.a = FreshA(config, target.rank, in, seed);
        module.b = at::zeros({out, target.rank}, kLeafOptions);
      }
      if (config.adapter.use_dora) {
        ASSIGN_OR_RETURN(const BaseTable table, base_tables({.site = module.site, .layer = module.layer}));
        module.base_weight = WeightOf(table);
        module.magnitude = at::linalg_vector_norm(module.base_weight.to(at::kFloat), 2, at::IntArrayRef{1});
        module.magnitude.set_requires_grad(true);
      }
      module.a.set_requires_grad(true);
      module.b.set_requires_grad(true);
      return absl::OkStatus();
    });
    RETURN_IF_ERROR(status);
    leaves.first_layer_ = std::min(leaves.first_layer_, FirstLayerOf(module, base.num_layers));
    leaves.modules_.push_back(std::move(module));
  }
  leaves.UpdateNorms();
  return leaves;
}

absl::Status AdapterLeaves::CopyFrom(const AdapterImage& image) {
  const at::NoGradGuard frozen;
  if (!image.invocation_tokens.empty()) {
    return absl::UnimplementedError("init_adapter: an aLoRA, active from its invocation on; training knows no such");
  }
  size_t used = 0;
  for (LeafModule& module : modules_) {
    const auto slot = std::find_if(image.slots.begin(), image.slots.end(), [&](const ImageSlot& s) {
      return s.site == module.site && s.layer == module.layer && s.rank > 0;
    });
    if (slot == image.slots.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("init_adapter: has no weights for ", module.path, ", which adapter.targets names"));
    }
    if (slot->delta_bias.present() || slot->bias.present() || slot->magnitude.present() != module.magnitude.defined()) {
      return absl::UnimplementedError(
          absl::StrCat("init_adapter: ", module.path, ": has other parts than adapter.kind trains"));
    }
    RETURN_IF_ERROR(CopyInto(module.path, slot->a, module.a));
    RETURN_IF_ERROR(CopyInto(module.path, slot->b, module.b));
    if (module.magnitude.defined()) RETURN_IF_ERROR(CopyInto(module.path, slot->magnitude, module.magnitude));
    ++used;
  }
  if (used != image.slots.size()) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: modules: ", image.slots.size(), "; limit: ", used,
                                                   ", those that adapter.targets names"));
  }
  UpdateNorms();
  return absl::OkStatus();
}

const LeafModule* AdapterLeaves::Find(Site site, int32_t layer) const {
  for (const LeafModule& module : modules_) {
    if (module.site == site && module.layer == layer) return &module;
  }
  return nullptr;
}

std::vector<NamedLeaf> AdapterLeaves::Named() const {
  std::vector<NamedLeaf> named;
  for (const LeafModule& module : modules_) {
    const std::string prefix = absl::StrCat("base_model.model.", module.path);
    const bool embedding = module.site == Site::kEmbedTokens;
    named.push_back({absl::StrCat(prefix, embedding ? ".lora_embedding_A" : ".lora_A.weight"), module.a});
    named.push_back(
        {absl::StrCat(prefix, embedding ? ".lora_embedding_B" : ".lora_B.weight"), module.b, /*is_b=*/true});
    if (module.magnitude.defined()) named.push_back({absl::StrCat(prefix, ".lora_magnitude_vector"), module.magnitude});
  }
  return named;
}

int64_t AdapterLeaves::parameters() const {
  int64_t count = 0;
  for (const NamedLeaf& leaf : Named()) count += leaf.tensor.numel();
  return count;
}

void AdapterLeaves::DropGradients() {
  for (const NamedLeaf& leaf : Named()) at::Tensor(leaf.tensor).mutable_grad() = at::Tensor();
}

void AdapterLeaves::UpdateNorms() {
  const at::NoGradGuard frozen;
  for (LeafModule& module : modules_) {
    if (!module.magnitude.defined()) continue;
    const at::Tensor merged =
        at::addmm(module.base_weight.to(at::kFloat), module.b, module.a, /*beta=*/1, /*alpha=*/module.scale);
    module.norm = at::linalg_vector_norm(merged, 2, at::IntArrayRef{1});
  }
}

}  // namespace lorad
