#include "server/tuning/init_adapter.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/float_convert.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/lora_writer.h"
#include "adapters/kinds/moe_config.h"
#include "adapters/kinds/peft_facts.h"
#include "adapters/kinds/peft_targets.h"
#include "adapters/names.h"
#include "model/base/check.h"
#include "model/base/file_source.h"
#include "model/base/new_folder.h"
#include "model/base/status_macros.h"
#include "model/causal_lm.h"
#include "scheduler/find_adapter.h"

namespace lorad {
namespace {

std::string FolderOf(const std::string& name_or_path, const Backend& backend) {
  const std::shared_ptr<const EngineSnapshot> now = backend.engine->snapshot();
  const AdapterInfo* const listed = FindListed(*now->adapters, name_or_path);
  return listed == nullptr ? name_or_path : listed->path;
}

// The shape of an adapter with routers; what only its training knows keeps its defaults.
v1::AdapterSpec RoutedSpecOf(const AdapterImage& image) {
  const MoeStrategy* const strategy = FindMoeStrategy(image.kind);
  LORAD_CHECK(strategy != nullptr);
  v1::AdapterSpec spec, experts;
  spec.set_kind(absl::StrReplaceAll(image.kind, {{"-", "_"}}));
  spec.mutable_targets()->Assign(image.targets.begin(), image.targets.end());
  for (const ImageSlot& slot : image.slots) {
    if (slot.router.present()) spec.set_num_experts(static_cast<uint32_t>(slot.experts));
    if (slot.rank == 0) continue;
    const bool of_experts = HasExperts(strategy->kind, slot.site);
    v1::AdapterSpec* of_slot = of_experts ? &experts : &spec;
    of_slot->set_rank(static_cast<uint32_t>(slot.rank));
    of_slot->set_alpha(slot.scale * static_cast<float>(slot.rank));
    if (of_experts && slot.magnitude.present()) of_slot->set_kind("dora");
  }
  if (!spec.has_rank() && experts.has_rank()) {  // nothing is beside them
    spec.set_rank(experts.rank());
    spec.set_alpha(experts.alpha());
  }
  const bool differ = experts.has_rank() &&
                      (experts.rank() != spec.rank() || experts.alpha() != spec.alpha() || experts.kind() == "dora");
  if (differ) *spec.mutable_expert_lora() = experts;
  if (image.routing.choice == RoutingRule::Choice::kTopP) {
    spec.set_top_p(image.routing.top_p);
    spec.set_router_temperature(image.routing.temperature);
  } else if (image.routing.renormalise) {
    spec.set_top_k(static_cast<uint32_t>(image.routing.top_k));
  }
  return spec;
}

// The spec with which training makes an adapter as the image.
class SpecMaker final {
 public:
  SpecMaker(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables)
      : image_(image), base_(base), base_tables_(base_tables), bias_(BiasesOf(image, base)) {
    for (const auto& [path, module] : AllModules(base)) paths_[{module.shape->site, module.layer}] = path;
  }

  absl::StatusOr<v1::AdapterSpec> Make() {
    if (!image_.invocation_tokens.empty()) return Refuse("invocation tokens");
    if (image_.vocab_size > 0) return Refuse("tokens of its own");
    if (image_.num_labels > 0) return Refuse("a classifier head");
    if (bias_ != PeftBias::kNone) spec_.set_bias(Name(bias_));
    for (const ImageSlot& slot : image_.slots) RETURN_IF_ERROR(AddSlot(slot));
    if (spec_.targets_size() == 0) return Refuse("no pair to go on from");
    return std::move(spec_);
  }

 private:
  absl::Status Refuse(const std::string& what) const {
    return absl::UnimplementedError(
        absl::StrCat("init_adapter: kind: ", image_.kind, "; has ", what, "; limit: what training can make"));
  }

  absl::Status AddSlot(const ImageSlot& slot) {
    const auto found = paths_.find({slot.site, slot.layer});
    if (found == paths_.end() || slot.experts != 1 || slot.router.present()) return Refuse("experts or a router");
    const std::string& path = found->second;
    if (slot.delta_bias.present()) return Refuse(absl::StrCat("lora_bias, of ", path));
    if (IsNorm(slot.site)) return AddNorm(path, slot);
    if (slot.rank > 0) {
      if (slot.rows.present() && !HasTiedTokens(slot)) {
        return Refuse(absl::StrCat("a replaced weight below LoRA, of ", path));
      }
      AddPair(path, slot);
    } else if (slot.rows.present() && !slot.whole_module) {
      AddTokens(slot);
    } else if (slot.rows.present() || bias_ != PeftBias::kAll) {  // a bias alone is of a module that was saved
      spec_.add_modules_to_save(path);
    }
    return absl::OkStatus();
  }

  void AddPair(const std::string& path, const ImageSlot& slot) {
    const auto rank = static_cast<uint32_t>(slot.rank);
    const float alpha = slot.scale * static_cast<float>(slot.rank);
    if (spec_.targets_size() == 0) {
      spec_.set_rank(rank);
      spec_.set_alpha(alpha);
      spec_.set_kind(slot.magnitude.present() ? "dora" : "lora");
    }
    spec_.add_targets(path);
    const std::string expression = absl::StrReplaceAll(path, {{".", "\\."}});
    if (rank != spec_.rank()) (*spec_.mutable_rank_pattern())[expression] = rank;
    if (alpha != spec_.alpha()) (*spec_.mutable_alpha_pattern())[expression] = alpha;
  }

  // Slots are ordered by site, the embedding's first.
  bool HasTiedTokens(const ImageSlot& slot) const {
    const auto& tokens = spec_.trainable_token_ids();
    return slot.site == Site::kLmHead && base_.tied_embeddings && !slot.whole_module &&
           std::equal(slot.row_ids.begin(), slot.row_ids.end(), tokens.begin(), tokens.end(),
                      [](int32_t x, uint32_t y) { return static_cast<uint32_t>(x) == y; });
  }

  // The embedding's, and a tied head's with them; else a head has a list of its own.
  void AddTokens(const ImageSlot& slot) {
    if (slot.site == Site::kEmbedTokens) {
      spec_.mutable_trainable_token_ids()->Add(slot.row_ids.begin(), slot.row_ids.end());
      return;
    }
    if (HasTiedTokens(slot)) return;
    spec_.mutable_trainable_head_token_ids()->Add(slot.row_ids.begin(), slot.row_ids.end());
  }

  // With all biases trained, a norm is saved where its weight is not the base's.
  absl::Status AddNorm(const std::string& path, const ImageSlot& slot) {
    if (bias_ == PeftBias::kAll) {
      const int64_t width = slot.rows.shape[1];
      std::vector<float> own(static_cast<size_t>(slot.rows.elements())), of_base(static_cast<size_t>(width));
      ASSIGN_OR_RETURN(const BaseTable table, base_tables_({.site = slot.site, .layer = slot.layer}));
      ToF32(slot.rows.dtype, slot.rows.data(), slot.rows.elements(), own.data());
      ToF32(table.dtype, table.data, width, of_base.data());
      if (std::equal(of_base.begin(), of_base.end(), own.begin())) return absl::OkStatus();
    }
    spec_.add_modules_to_save(path);
    return absl::OkStatus();
  }

  const AdapterImage& image_;
  const BaseShape& base_;
  const BaseTables& base_tables_;
  const PeftBias bias_;
  std::map<std::pair<Site, int32_t>, std::string> paths_;
  v1::AdapterSpec spec_;
};

}  // namespace

absl::StatusOr<std::optional<AdapterImage>> TakeInitAdapter(const std::string& name_or_path, const Backend& backend,
                                                            const CausalLm& model, const BaseTables& base_tables,
                                                            v1::AdapterSpec* spec) {
  if (name_or_path.empty()) return std::optional<AdapterImage>();
  v1::AdapterSpec own = *spec;
  own.clear_dropout();
  own.clear_router_aux_loss_coef();
  own.clear_router_z_loss_coef();
  own.clear_jitter_noise();
  own.clear_expert_capacity();
  if (own.ByteSizeLong() > 0) {
    return absl::InvalidArgumentError(
        "adapter: set with init_adapter; limit: dropout, router_aux_loss_coef, router_z_loss_coef, jitter_noise, "
        "expert_capacity; the rest is init_adapter's");
  }
  const BaseShape& base = model.base_shape();
  ASSIGN_OR_RETURN(const std::string folder, JoinAdapterPath(FolderOf(name_or_path, backend), backend.adapter_roots));
  const std::unique_ptr<FileSource> files =
      backend.adapter_roots.empty() ? LocalFiles() : RootedFiles(backend.adapter_roots[0]);
  absl::StatusOr<AdapterImage> image = ReadAdapter(folder, base, *files, {.base_tables = base_tables});
  if (!image.ok()) {
    return absl::Status(image.status().code(), absl::StrCat("init_adapter: ", image.status().message()));
  }
  const bool routed = image->routing.choice != RoutingRule::Choice::kNone;
  if (routed && image->routing.activation.value_or(model.config().activation) != model.config().activation) {
    return absl::UnimplementedError("init_adapter: act_fn: another one than the base's; not supported");
  }
  absl::StatusOr<v1::AdapterSpec> made =
      routed ? absl::StatusOr<v1::AdapterSpec>(RoutedSpecOf(*image)) : SpecMaker(*image, base, base_tables).Make();
  RETURN_IF_ERROR(made.status());
  made->MergeFrom(*spec);
  *spec = *std::move(made);
  return std::optional<AdapterImage>(*std::move(image));
}

absl::Status KeepInitAdapter(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                             const std::string& folder) {
  ASSIGN_OR_RETURN(const std::unique_ptr<NewFolder> written, NewFolder::Create(folder));
  RETURN_IF_ERROR(WriteAdapter(image, base, base_tables, *written));
  return written->Publish();
}

}  // namespace lorad
