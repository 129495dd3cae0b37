#include "adapters/kinds/lora_writer.h"

#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/kinds/peft_facts.h"
#include "adapters/kinds/peft_experts.h"
#include "adapters/kinds/peft_targets.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Place = std::pair<Site, int32_t>;  // with the layer

constexpr char kPrefix[] = "base_model.model.";
constexpr char kClassifier[] = "score";

class Writer final {
 public:
  Writer(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables)
      : image_(image), base_(base), base_tables_(base_tables), modules_(AllModules(base)) {
    for (const ImageSlot& slot : image.slots) slots_[{slot.site, slot.layer}] = &slot;
  }

  absl::Status Collect() {
    facts_.bias = BiasesOf(image_, base_);
    facts_.invocation_tokens = image_.invocation_tokens;
    for (const ImageSlot& slot : image_.slots) RETURN_IF_ERROR(AddSlot(slot));
    return facts_.bias == PeftBias::kAll ? AddOtherNormBiases() : absl::OkStatus();
  }

  absl::Status Write(const NewFolder& folder) {
    RETURN_IF_ERROR(
        WriteSafetensors(folder.PathOf("adapter_model.safetensors"), ToWrite(&tensors_), {{"format", "pt"}}));
    return folder.Write("adapter_config.json", ConfigTextOf(facts_));
  }

 private:
  const ImageSlot* Find(Site site, int32_t layer) const {
    const auto found = slots_.find({site, layer});
    return found == slots_.end() ? nullptr : found->second;
  }

  void Add(const std::string& path, const char* ending, HostTensor tensor) {
    tensors_.push_back({absl::StrCat(kPrefix, path, ending), std::move(tensor)});
  }

  absl::Status AddSlot(const ImageSlot& slot) {
    const SiteShape& shape = *base_.Find(slot.site);
    const std::string module = ModulePathOf(shape, slot.layer);
    if (IsNorm(slot.site)) return AddNorm(module, slot);
    if (image_.num_labels > 0 && slot.site == Site::kLmHead) {
      Add(kClassifier, ".weight", slot.rows);
      facts_.saved.insert(kClassifier);
      facts_.classifies = true;
      return absl::OkStatus();
    }
    if (shape.parameter.empty()) {
      AddPeftTensors(absl::StrCat(kPrefix, module), slot, &tensors_);
      if (slot.rank > 0) facts_.modules.insert(module);
      PutRank(module, slot);
      facts_.dora |= slot.magnitude.present();
      facts_.lora_bias |= slot.delta_bias.present();
    } else {
      AddParameter(module, shape, slot);
    }
    // A bias alone, where not every one is replaced, is of a module that was saved.
    const bool lone_bias = slot.rank == 0 && !slot.rows.present() && facts_.bias != PeftBias::kAll;
    if (slot.whole_module || lone_bias) return AddWholeModule(module, slot);
    if (slot.rows.present()) AddTokens(module, slot);
    return absl::OkStatus();
  }

  void PutRank(const std::string& name, const ImageSlot& slot) {
    if (slot.rank == 0) return;
    facts_.ranks[name] = slot.rank;
    facts_.alphas[name] = static_cast<double>(slot.scale) * slot.rank;  // exact, and divided by the rank exact again
  }

  // Of two parameters of one module, PEFT wraps the first one first.
  void AddParameter(const std::string& module, const SiteShape& shape, const ImageSlot& slot) {
    bool wrapped = false;
    for (const SiteShape* other = &shape + 1; other != base_.sites.data() + base_.sites.size(); ++other) {
      wrapped |= other->module_path == shape.module_path && Find(other->site, slot.layer) != nullptr;
    }
    const std::string path = absl::StrCat(module, wrapped ? ".base_layer" : "");
    Add(path, ".lora_A.weight", slot.a);
    // The order in which experts take turns, from that in which they follow each other: the same transposition.
    Add(path, ".lora_B.weight", slot.experts > 1 ? ExpertsOneAfterTheOther(slot.b, slot.rank) : slot.b);
    const std::string parameter = absl::StrCat(module, ".", shape.parameter);
    facts_.parameters.insert(parameter);
    PutRank(parameter, slot);
  }

  absl::StatusOr<BaseTable> TableOf(Site site, int32_t layer, bool bias = false) const {
    if (base_tables_ != nullptr) return base_tables_({.site = site, .layer = layer, .bias = bias});
    return absl::UnimplementedError(
        absl::StrCat(std::string(Name(site)), ": written whole, and the base's tables are not at hand"));
  }

  absl::Status AddWholeModule(const std::string& module, const ImageSlot& slot) {
    HostTensor whole = slot.rows;
    if (!slot.row_ids.empty() || !slot.rows.present()) {
      ASSIGN_OR_RETURN(const BaseTable table, TableOf(slot.site, slot.layer));
      whole = WithRows(table, slot);
    }
    Add(module, slot.rank > 0 ? ".base_layer.weight" : ".weight", std::move(whole));
    if (slot.rank == 0) facts_.saved.insert(module);
    return absl::OkStatus();
  }

  static HostTensor WithRows(const BaseTable& table, const ImageSlot& slot) {
    HostTensor whole = CopyOf(table, slot.rows.present() ? slot.rows.dtype : table.dtype);
    auto bytes = std::make_shared<std::vector<std::byte>>(*whole.bytes);
    const auto row_bytes = static_cast<size_t>(table.columns * SizeBytes(whole.dtype));
    if (!slot.row_ids.empty() && slot.row_ids.back() >= table.rows) {  // tokens of its own, one after the other
      whole.shape[0] = slot.row_ids.back() + 1;
      bytes->resize(static_cast<size_t>(whole.shape[0]) * row_bytes);
    }
    for (size_t i = 0; i < slot.row_ids.size(); ++i) {
      std::memcpy(bytes->data() + static_cast<size_t>(slot.row_ids[i]) * row_bytes, slot.rows.data() + i * row_bytes,
                  row_bytes);
    }
    whole.bytes = std::move(bytes);
    return whole;
  }

  void AddTokens(const std::string& module, const ImageSlot& slot) {
    if (slot.site == Site::kLmHead && IsTied(slot)) return;
    Add(module, ".token_adapter.trainable_tokens_delta", slot.rows);
    facts_.tokens[module] = slot.row_ids;
  }

  // PEFT gives a tied head the embedding's tokens.
  bool IsTied(const ImageSlot& head) const {
    const ImageSlot* embedding = base_.tied_embeddings ? Find(Site::kEmbedTokens, -1) : nullptr;
    return embedding != nullptr && !embedding->whole_module && embedding->row_ids == head.row_ids &&
           embedding->rows.dtype == head.rows.dtype &&
           std::memcmp(embedding->rows.data(), head.rows.data(),
                       static_cast<size_t>(head.rows.elements() * SizeBytes(head.rows.dtype))) == 0;
  }

  absl::Status AddNorm(const std::string& module, const ImageSlot& slot) {
    const auto row = [&](int64_t i) {
      HostTensor vector = RowsOf(slot.rows, i, 1);
      vector.shape = {slot.rows.shape[1]};
      return vector;
    };
    if (slot.rows.shape[0] > 1) Add(module, ".bias", row(1));
    if (facts_.bias == PeftBias::kAll) {
      ASSIGN_OR_RETURN(const BaseTable of_base, TableOf(slot.site, slot.layer));
      const HostTensor weight = CopyOf(of_base, slot.rows.dtype);
      const auto bytes = static_cast<size_t>(weight.elements() * SizeBytes(weight.dtype));
      if (std::memcmp(weight.data(), slot.rows.data(), bytes) == 0) return absl::OkStatus();
    }
    Add(module, ".weight", row(0));
    facts_.saved.insert(module);
    return absl::OkStatus();
  }

  absl::Status AddOtherNormBiases() {
    for (const auto& [path, module] : modules_) {
      const SiteShape& shape = *module.shape;
      if (!IsNorm(shape.site) || !shape.has_bias || Find(shape.site, module.layer) != nullptr) continue;
      ASSIGN_OR_RETURN(const BaseTable bias, TableOf(shape.site, module.layer, /*bias=*/true));
      Add(path, ".bias", CopyOf(bias, bias.dtype));
    }
    return absl::OkStatus();
  }

  const AdapterImage& image_;
  const BaseShape& base_;
  const BaseTables& base_tables_;
  const std::map<std::string, TargetedModule> modules_;
  std::map<Place, const ImageSlot*> slots_;
  std::vector<NamedTensor> tensors_;
  PeftFacts facts_;
};

}  // namespace

PeftBias BiasesOf(const AdapterImage& image, const BaseShape& base) {
  std::map<Place, const ImageSlot*> slots;
  for (const ImageSlot& slot : image.slots) slots[{slot.site, slot.layer}] = &slot;
  bool every_linear = true, targeted = false, others = false;
  for (const auto& [path, module] : AllModules(base)) {
    const bool has_classifier = image.num_labels > 0 && module.shape->site == Site::kLmHead;
    if (!module.shape->has_bias || has_classifier) continue;
    const auto found = slots.find({module.shape->site, module.layer});
    if (IsNorm(module.shape->site)) {
      others |= found != slots.end();
      continue;
    }
    const bool has = found != slots.end() && found->second->bias.present();
    every_linear &= has;
    targeted |= has && found->second->rank > 0;
    others |= has && found->second->rank == 0;
  }
  if (every_linear && others) return PeftBias::kAll;
  return targeted ? PeftBias::kLoraOnly : PeftBias::kNone;
}

std::string ModulePathOf(const SiteShape& shape, int32_t layer) {
  return absl::StrReplaceAll(shape.module_path, {{"{}", absl::StrCat(layer)}});
}

void AddPeftTensors(const std::string& path, const ImageSlot& slot, std::vector<NamedTensor>* tensors) {
  const auto add = [&](const char* ending, const HostTensor& tensor) {
    if (tensor.present()) tensors->push_back({absl::StrCat(path, ending), tensor});
  };
  const bool embedding = slot.site == Site::kEmbedTokens;
  add(embedding ? ".lora_embedding_A" : ".lora_A.weight", slot.a);
  add(embedding ? ".lora_embedding_B" : ".lora_B.weight", slot.b);
  add(".lora_magnitude_vector", slot.magnitude);
  add(".lora_B.bias", slot.delta_bias);
  add(slot.rank > 0 ? ".base_layer.bias" : ".bias", slot.bias);
}

absl::Status WriteLora(const AdapterImage& image, const BaseShape& base, const BaseTables& base_tables,
                       const NewFolder& folder) {
  if (image.kind != "lora" && image.kind != "dora" && image.kind != "alora") {
    return absl::UnimplementedError(absl::StrCat("adapter kind: ", image.kind, "; PEFT's LoRA folders cannot hold it"));
  }
  Writer writer(image, base, base_tables);
  RETURN_IF_ERROR(writer.Collect());
  return writer.Write(folder);
}

}  // namespace lorad
