#include "adapters/train/leaves.h"

#include <algorithm>
#include <map>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/neg.h>
#include <ATen/ops/tensor.h>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "adapters/train/fresh_leaves.h"
#include "adapters/train/random_order.h"
#include "adapters/train/routed_leaves.h"
#include "adapters/train/trained_modules.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

constexpr int64_t kNormProducts = 128;  // what a weight costs that is read, widened and perhaps rounded anew

// [out], ||W + scale B A|| by row, a block of rows at a time: the whole of W would be another copy, and one long wait.
at::Tensor NormOf(const LeafModule& module) {
  const int64_t out = module.b.size(0), rank = module.b.size(1), in = module.a.size(1);
  const int64_t products_a_row = in * (rank + kNormProducts), most = PieceRows(products_a_row);
  std::vector<at::Tensor> norms;
  for (int64_t first = 0; first < out; first += most) {
    const int64_t count = std::min(most, out - first);
    BeginPiece(count * products_a_row);
    at::Tensor merged = at::addmm(module.base_weight(first, count).to(at::kFloat), module.b.narrow(0, first, count),
                                  module.a, /*beta=*/1, /*alpha=*/module.scale);
    if (module.initial_a.defined()) {
      merged = at::addmm(merged, module.initial_b.narrow(0, first, count), module.initial_a, /*beta=*/1,
                         /*alpha=*/-module.scale);
    }
    norms.push_back(at::linalg_vector_norm(merged, 2, at::IntArrayRef{1}));
  }
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

at::Tensor InF32(const HostTensor& from) {
  at::Tensor wide = at::empty(from.shape, at::TensorOptions().dtype(at::kFloat));
  ToF32(from.dtype, from.data(), from.elements(), wide.mutable_data_ptr<float>());
  return wide;
}

absl::Status OtherParts(const std::string& path, const char* which) {
  return absl::UnimplementedError(
      absl::StrCat("init_adapter: ", path, ": has other parts than adapter.kind trains: ", which));
}

absl::Status CopyInto(const std::string& path, const HostTensor& from, at::Tensor to) {
  if (from.present() != to.defined()) return OtherParts(path, "pair, magnitude or bias");
  if (!to.defined()) return absl::OkStatus();
  if (from.elements() != to.numel()) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: ", path, ": elements: ", from.elements(),
                                                   "; limit: ", to.numel(), ", as the spec's rank says"));
  }
  to.copy_(InF32(from).view(to.sizes()));
  return absl::OkStatus();
}

absl::Status CopyNorm(const ImageSlot& slot, LeafModule* module) {
  const at::Tensor rows = InF32(slot.rows);
  at::Tensor weight = module->weight, bias = module->bias;
  if (weight.defined()) weight.copy_(rows[0]);
  if (bias.defined() && rows.size(0) > 1) bias.copy_(rows[1]);
  return absl::OkStatus();
}

absl::Status CopyRows(const ImageSlot& slot, LeafModule* module) {
  const std::vector<int64_t> ids(slot.row_ids.begin(), slot.row_ids.end());
  if (module->weight.defined()) {
    at::Tensor weight = module->weight;
    if (ids.empty() ? slot.rows.shape[0] != weight.size(0) : ids.back() >= weight.size(0)) {
      return OtherParts(module->path, "tokens of its own");
    }
    if (ids.empty()) {
      weight.copy_(InF32(slot.rows));
    } else {
      weight.index_copy_(0, at::tensor(ids), InF32(slot.rows));
    }
    return absl::OkStatus();
  }
  if (!module->token_rows.defined() || !module->token_ids.equal(at::tensor(ids))) {
    return OtherParts(module->path, "rows of other tokens");
  }
  at::Tensor(module->token_rows).copy_(InF32(slot.rows));
  return absl::OkStatus();
}

absl::Status CopySlot(const ImageSlot& slot, LeafModule* module) {
  if (slot.delta_bias.present() || slot.router.present() || slot.experts > 1) {
    return OtherParts(module->path, "lora_bias or experts");
  }
  RETURN_IF_ERROR(CopyInto(module->path, slot.a, module->a));
  RETURN_IF_ERROR(CopyInto(module->path, slot.b, module->b));
  RETURN_IF_ERROR(CopyInto(module->path, slot.magnitude, module->magnitude));
  if (slot.rows.present() && IsNorm(slot.site)) return CopyNorm(slot, module);
  if (slot.bias.present()) RETURN_IF_ERROR(CopyInto(module->path, slot.bias, module->bias));
  return slot.rows.present() ? CopyRows(slot, module) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<AdapterLeaves> AdapterLeaves::Create(const TrainConfig& config, const BaseShape& base,
                                                    const BaseTables& base_tables, const GoOnFn& go_on) {
  if (config.routed.has_value()) {
    AdapterLeaves leaves;
    leaves.routed_ = config.routed;
    ASSIGN_OR_RETURN(leaves.modules_, MakeRoutedLeaves(config, base, base_tables));
    leaves.UpdateNorms();
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
  leaves.UpdateNorms();
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

absl::Status AdapterLeaves::CopyFrom(const AdapterImage& image) {
  if (routed_.has_value()) {
    RETURN_IF_ERROR(CopyRoutedLeaves(image, &modules_));
    UpdateNorms();
    return absl::OkStatus();
  }
  const at::NoGradGuard frozen;
  if (!image.invocation_tokens.empty()) {
    return absl::UnimplementedError("init_adapter: an aLoRA, active from its invocation on; training knows no such");
  }
  size_t used = 0;
  for (LeafModule& module : modules_) {
    const auto slot = std::find_if(image.slots.begin(), image.slots.end(), [&](const ImageSlot& s) {
      return s.site == module.site && s.layer == module.layer;
    });
    if (slot != image.slots.end()) {
      const absl::Status status = Guarded([&] { return CopySlot(*slot, &module); });
      RETURN_IF_ERROR(status);
      ++used;
    } else if (module.a.defined()) {
      return absl::InvalidArgumentError(
          absl::StrCat("init_adapter: has no weights for ", module.path, ", which adapter.targets names"));
    }
  }
  if (used != image.slots.size()) {
    return absl::InvalidArgumentError(absl::StrCat("init_adapter: modules: ", image.slots.size(), "; limit: ", used,
                                                   ", those that adapter.targets names"));
  }
  UpdateNorms();
  return absl::OkStatus();
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

void AdapterLeaves::UpdateNorms() {
  const at::NoGradGuard frozen;
  for (LeafModule& module : modules_) {
    if (module.magnitude.defined()) module.norm = NormOf(module);
  }
}

}  // namespace lorad
