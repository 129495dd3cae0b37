#include "adapters/train/leaves.h"

#include <algorithm>
#include <map>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/neg.h>

#include "absl/strings/str_cat.h"
#include "adapters/train/fresh_leaves.h"
#include "adapters/train/in_device_turn.h"
#include "adapters/train/random_order.h"
#include "adapters/train/routed_leaves.h"
#include "adapters/train/trained_modules.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "model/device_step.h"
#include "model/ops/autograd/in_pieces.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

constexpr int64_t kNormProducts = 128;  // what a weight costs that is read, widened and perhaps rounded anew

// [out], ||W + scale B A|| by row, a block of rows at a time: the whole of W would be another copy, and one long wait.
at::Tensor NormOf(const LeafModule& module) {
  const int64_t out = module.b.size(0), rank = module.b.size(1), in = module.a.size(1);
  const int64_t products_a_row = in * (rank + kNormProducts);
  const int64_t most = std::min(PieceRows(products_a_row), std::max<int64_t>(1, kWidenedElements / in));
  std::vector<at::Tensor> norms;
  ItemsInPieces(out, most, products_a_row, [&](int64_t first, int64_t count) {
    at::Tensor merged = at::addmm(module.base_weight(first, count).to(at::kFloat), module.b.narrow(0, first, count),
                                  module.a, /*beta=*/1, /*alpha=*/module.scale);
    if (module.initial_a.defined()) {
      merged = at::addmm(merged, module.initial_b.narrow(0, first, count), module.initial_a, /*beta=*/1,
                         /*alpha=*/-module.scale);
    }
    norms.push_back(at::linalg_vector_norm(merged, 2, at::IntArrayRef{1}));
  });
  return norms.size() == 1 ? norms[0] : at::cat(norms, 0);
}

// The lowest layer whose input a gradient of the module's has to reach; -1: what comes before all layers.
int64_t FirstLayerOf(const LeafModule& module, int64_t num_layers) {
  if (module.layer >= 0) return module.layer;
  return module.site == Site::kEmbedTokens || module.site == Site::kProjectIn ? -1 : num_layers;
}

// A module's leaves under PEFT's names, with this pair.
void AppendNamed(const LeafModule& module, const at::Tensor& a, const at::Tensor& b, std::vector<NamedLeaf>* named) {
  const std::string prefix =
      module.saved_path.empty() ? absl::StrCat("base_model.model.", module.path) : module.saved_path;
  const auto add = [&](const char* ending, const at::Tensor& tensor) -> NamedLeaf& {
    return named->emplace_back(NamedLeaf{absl::StrCat(prefix, ending), tensor});
  };
  const bool embedding = module.site == Site::kEmbedTokens;
  if (a.defined()) {
    add(embedding ? ".lora_embedding_A" : ".lora_A.weight", a).of_embedding_pair = embedding;
    NamedLeaf& leaf = add(embedding ? ".lora_embedding_B" : ".lora_B.weight", b);
    leaf.is_b = true;
    leaf.of_embedding_pair = embedding;
  }
  if (module.magnitude.defined()) add(".lora_magnitude_vector", module.magnitude);
  // Norms that have a bias are layer norms.
  if (module.weight.defined()) {
    add(".weight", module.weight).is_base_vector = IsNorm(module.site) && module.bias.defined();
  }
  if (module.bias.defined()) add(a.defined() ? ".base_layer.bias" : ".bias", module.bias).is_base_vector = true;
  if (module.token_rows.defined() && !module.tokens_are_tied) {
    add(".token_adapter.trainable_tokens_delta", module.token_rows);
  }
  if (module.router.defined()) add(".moe_gate.weight", module.router);
}

void MoveModule(at::Device device, LeafModule* module) {
  for (at::Tensor* leaf : {&module->a, &module->b, &module->magnitude, &module->router, &module->bias, &module->weight,
                           &module->token_rows}) {
    if (leaf->defined()) *leaf = SentTo(device, leaf->detach()).set_requires_grad(true);
  }
  for (at::Tensor* constant : {&module->initial_a, &module->initial_b, &module->norm, &module->token_ids}) {
    if (constant->defined()) *constant = SentTo(device, *constant);
  }
}

// W of the model instead of the checkpoint's: on a device, and where it is quantised, which is W' already.
void ReadBaseOf(const CausalLm& model, LeafModule* module) {
  if (!module->base_weight) return;
  const WeightRows weight = model.WeightOf(module->site, module->layer);
  const at::Device device = model.device();
  if (weight.defined() && (!device.is_cpu() || weight.quantized())) {
    module->base_weight = [weight](int64_t first_row, int64_t count) { return weight.Rows(first_row, count); };
  } else if (!device.is_cpu()) {  // copied each time
    module->base_weight = [device, on_host = module->base_weight](int64_t first_row, int64_t count) {
      return OnDevice(device, on_host(first_row, count));
    };
  }
}

}  // namespace

absl::StatusOr<AdapterLeaves> AdapterLeaves::Create(const TrainConfig& config, const BaseShape& base,
                                                    const BaseTables& base_tables, const GoOnFn& go_on) {
  const auto first_norms = [&go_on](AdapterLeaves* made) -> absl::Status {
    const at::NoGradGuard frozen;
    for (LeafModule& module : made->modules_) {
      if (!module.magnitude.defined()) continue;
      if (go_on) RETURN_IF_ERROR(go_on());  // each reads a whole weight
      module.norm = NormOf(module);
    }
    return absl::OkStatus();
  };
  if (config.routed.has_value()) {
    AdapterLeaves leaves;
    leaves.routed_ = config.routed;
    ASSIGN_OR_RETURN(leaves.modules_, MakeRoutedLeaves(config, base, base_tables));
    RETURN_IF_ERROR(first_norms(&leaves));
    return leaves;
  }
  using Selected = std::map<std::string, TrainedModule>;
  ASSIGN_OR_RETURN(const Selected selected, SelectTrained(config, base));
  AdapterLeaves leaves;
  leaves.first_layer_ = base.num_layers;
  uint64_t pairs = 0;
  for (const auto& [path, trained] : selected) {
    if (go_on) RETURN_IF_ERROR(go_on());
    const uint64_t seed = MixSeed(config.seed, trained.pair ? pairs++ : 0);
    ASSIGN_OR_RETURN(LeafModule module, FreshLeaves(path, trained, config, seed, base_tables));
    module.tokens_are_tied = trained.tokens_are_tied;
    leaves.first_layer_ = std::min(leaves.first_layer_, FirstLayerOf(module, base.num_layers));
    leaves.modules_.push_back(std::move(module));
  }
  leaves.TieTokens();
  RETURN_IF_ERROR(first_norms(&leaves));
  return leaves;
}

void AdapterLeaves::TieTokens() {
  const LeafModule* const embedding = Find(Site::kEmbedTokens, /*layer=*/-1);
  for (LeafModule& module : modules_) {
    if (!module.tokens_are_tied) continue;
    module.token_rows = embedding->token_rows;
    module.token_ids = embedding->token_ids;
  }
}

absl::Status AdapterLeaves::MoveToDeviceOf(const CausalLm& model) {
  for (LeafModule& module : modules_) ReadBaseOf(model, &module);
  if (model.device().is_cpu()) return absl::OkStatus();
  const at::NoGradGuard frozen;
  for (LeafModule& module : modules_) {
    RETURN_IF_ERROR(InDeviceTurn(model.device(), [&]() -> absl::Status {
      MoveModule(model.device(), &module);
      return absl::OkStatus();
    }));
  }
  TieTokens();
  return absl::OkStatus();
}

at::Device DeviceOf(const LeafModule& module) {
  for (const at::Tensor& leaf : {module.a, module.router, module.weight, module.bias, module.token_rows}) {
    if (leaf.defined()) return leaf.device();
  }
  return at::kCPU;
}

const LeafModule* AdapterLeaves::Find(Site site, int32_t layer, int32_t expert) const {
  for (const LeafModule& module : modules_) {
    if (module.site == site && module.layer == layer && module.expert == expert) return &module;
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

absl::Status AdapterLeaves::UpdateNormsInTurns() {
  const at::Device device = modules_.empty() ? at::Device(at::kCPU) : DeviceOf(modules_.front());
  return InDeviceTurn(device, [&]() -> absl::Status {
    UpdateNorms();
    return absl::OkStatus();
  });
}

void AdapterLeaves::UpdateNorms() {
  const at::NoGradGuard frozen;
  for (LeafModule& module : modules_) {
    if (module.magnitude.defined()) module.norm = NormOf(module);
  }
}

}  // namespace lorad
