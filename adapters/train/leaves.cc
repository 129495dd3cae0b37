#include "adapters/train/leaves.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/sqrt.h>
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

bool TakesOffBase(LeafInit init) { return init == LeafInit::kPissa || init == LeafInit::kOlora; }

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

// Source: peft 0.21.2, pissa_init and olora_init of tuners/lora/layer.py. weight [out, in] f32
void BeginFromWeight(LeafInit init, const at::Tensor& weight, int64_t rank, LeafModule* module) {
  if (init == LeafInit::kOlora) {
    const auto [q, r] = at::linalg_qr(weight);
    module->b = q.narrow(1, 0, rank).contiguous();
    module->a = r.narrow(0, 0, rank).contiguous();
  } else {
    const auto [u, s, vh] = at::linalg_svd(weight, /*full_matrices=*/false);
    const at::Tensor root = at::sqrt(at::div(s.narrow(0, 0, rank), module->scale));
    module->b = at::mul(u.narrow(1, 0, rank), root);
    module->a = at::mul(vh.narrow(0, 0, rank), root.unsqueeze(1));
  }
  module->initial_a = module->a.clone();
  module->initial_b = module->b.clone();
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

absl::Status CheckTrainable(const std::string& path, const TargetedModule& target, const TrainConfig& config) {
  const Site site = target.shape->site;
  if (TakesOffBase(config.init)) {
    if (site == Site::kEmbedTokens) {
      return absl::UnimplementedError(absl::StrCat("adapter.init: pissa or olora on ", path, "; not supported"));
    }
    const int64_t limit = std::min(target.shape->in_features, target.shape->out_features);
    if (target.rank > limit) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter.rank: ", target.rank, "; limit: ", limit, ", of ", path, " with this adapter.init"));
    }
  }
  if (site == Site::kEmbedTokens && config.adapter.use_dora) {
    return absl::UnimplementedError(absl::StrCat("adapter.kind: dora on ", path, "; not supported: leave it out"));
  }
  return absl::OkStatus();
}

// A module's leaves under PEFT's names, with this pair.
void AppendNamed(const LeafModule& module, const at::Tensor& a, const at::Tensor& b, std::vector<NamedLeaf>* named) {
  const std::string prefix = absl::StrCat("base_model.model.", module.path);
  const bool embedding = module.site == Site::kEmbedTokens;
  if (a.defined()) {
    named->push_back({absl::StrCat(prefix, embedding ? ".lora_embedding_A" : ".lora_A.weight"), a});
    named->push_back({absl::StrCat(prefix, embedding ? ".lora_embedding_B" : ".lora_B.weight"), b, /*is_b=*/true});
  }
  if (module.magnitude.defined()) named->push_back({absl::StrCat(prefix, ".lora_magnitude_vector"), module.magnitude});
  if (!module.bias.defined()) return;
  named->push_back({absl::StrCat(prefix, a.defined() ? ".base_layer" : "", ".bias"), module.bias});
}

// The base's bias as a leaf, or undefined where it has none.
absl::StatusOr<at::Tensor> BiasLeaf(const BaseTables& base_tables, Site site, int32_t layer) {
  const absl::StatusOr<BaseTable> table = base_tables({.site = site, .layer = layer, .bias = true});
  if (absl::IsNotFound(table.status())) return at::Tensor();
  RETURN_IF_ERROR(table.status());
  return WeightOf(*table).to(at::kFloat).flatten().clone().set_requires_grad(true);
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
    RETURN_IF_ERROR(CheckTrainable(path, target, config));
    LeafModule module;
    module.path = path;
    module.site = target.shape->site;
    module.layer = target.layer;
    module.scale = target.scale;
    const uint64_t seed = MixSeed(config.seed, leaves.modules_.size());
    const absl::Status status = Guarded([&]() -> absl::Status {
      const int64_t in = target.shape->in_features, out = target.shape->out_features;
      if (config.adapter.use_dora || TakesOffBase(config.init)) {
        ASSIGN_OR_RETURN(const BaseTable table, base_tables({.site = module.site, .layer = module.layer}));
        module.base_weight = WeightOf(table);
      }
      if (TakesOffBase(config.init)) {
        BeginFromWeight(config.init, module.base_weight.to(at::kFloat), target.rank, &module);
      } else if (module.site == Site::kEmbedTokens) {  // As peft: the other way round.
        module.a = at::zeros({target.rank, in}, kLeafOptions);
        module.b = NormalB(out, target.rank, seed);
      } else {
        module.a = FreshA(config, target.rank, in, seed);
        module.b = at::zeros({out, target.rank}, kLeafOptions);
      }
      if (config.adapter.use_dora) {
        module.magnitude = at::linalg_vector_norm(module.base_weight.to(at::kFloat), 2, at::IntArrayRef{1});
        module.magnitude.set_requires_grad(true);
      }
      module.a.set_requires_grad(true);
      module.b.set_requires_grad(true);
      if (config.adapter.bias == PeftBias::kNone) return absl::OkStatus();
      ASSIGN_OR_RETURN(module.bias, BiasLeaf(base_tables, module.site, module.layer));
      return absl::OkStatus();
    });
    RETURN_IF_ERROR(status);
    leaves.first_layer_ = std::min(leaves.first_layer_, FirstLayerOf(module, base.num_layers));
    leaves.modules_.push_back(std::move(module));
  }
  if (config.adapter.bias == PeftBias::kAll) RETURN_IF_ERROR(leaves.AddOtherBiases(base, base_tables));
  leaves.UpdateNorms();
  return leaves;
}

absl::Status AdapterLeaves::AddOtherBiases(const BaseShape& base, const BaseTables& base_tables) {
  for (const auto& [path, target] : AllModules(base)) {
    LeafModule module;
    module.path = path;
    module.site = target.shape->site;
    module.layer = target.layer;
    if (Find(module.site, module.layer) != nullptr) continue;
    const absl::Status status = Guarded([&]() -> absl::Status {
      ASSIGN_OR_RETURN(module.bias, BiasLeaf(base_tables, module.site, module.layer));
      return absl::OkStatus();
    });
    RETURN_IF_ERROR(status);
    if (!module.bias.defined()) continue;
    if (IsNorm(module.site)) {
      return absl::UnimplementedError(absl::StrCat("adapter.bias: all with ", path, "; not supported; use lora_only"));
    }
    first_layer_ = std::min(first_layer_, FirstLayerOf(module, base.num_layers));
    modules_.push_back(std::move(module));
  }
  return absl::OkStatus();
}

absl::Status AdapterLeaves::CopyFrom(const AdapterImage& image) {
  const at::NoGradGuard frozen;
  if (!image.invocation_tokens.empty()) {
    return absl::UnimplementedError("init_adapter: an aLoRA, active from its invocation on; training knows no such");
  }
  size_t used = 0;
  for (LeafModule& module : modules_) {
    const auto slot = std::find_if(image.slots.begin(), image.slots.end(), [&](const ImageSlot& s) {
      return s.site == module.site && s.layer == module.layer;
    });
    if (slot == image.slots.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("init_adapter: has no weights for ", module.path, ", which adapter.targets names"));
    }
    if (slot->delta_bias.present() || slot->bias.present() != module.bias.defined() ||
        slot->magnitude.present() != module.magnitude.defined() || (slot->rank > 0) != module.a.defined()) {
      return absl::UnimplementedError(
          absl::StrCat("init_adapter: ", module.path, ": has other parts than adapter.kind trains"));
    }
    if (module.a.defined()) RETURN_IF_ERROR(CopyInto(module.path, slot->a, module.a));
    if (module.a.defined()) RETURN_IF_ERROR(CopyInto(module.path, slot->b, module.b));
    if (module.bias.defined()) RETURN_IF_ERROR(CopyInto(module.path, slot->bias, module.bias));
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
  for (const LeafModule& module : modules_) AppendNamed(module, module.a, module.b, &named);
  return named;
}

std::vector<NamedLeaf> AdapterLeaves::Constants() const {
  std::vector<NamedLeaf> constants;
  for (const LeafModule& module : modules_) {
    if (!module.initial_a.defined()) continue;
    constants.push_back({absl::StrCat("initial.", module.path, ".a"), module.initial_a});
    constants.push_back({absl::StrCat("initial.", module.path, ".b"), module.initial_b, /*is_b=*/true});
  }
  return constants;
}

std::vector<NamedLeaf> AdapterLeaves::Saved() const {
  const at::NoGradGuard frozen;
  std::vector<NamedLeaf> saved;
  for (const LeafModule& module : modules_) {
    at::Tensor a = module.a, b = module.b;
    if (module.initial_a.defined()) {
      a = at::cat({a, module.initial_a}, 0);
      b = at::cat({b, at::neg(module.initial_b)}, 1);
    }
    AppendNamed(module, a, b, &saved);
  }
  return saved;
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
