#include "adapters/kinds/peft_tensors.h"

#include <algorithm>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/kinds/peft_tensor_name.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Targets = std::map<std::string, TargetedModule>;

bool IsTableSite(Site site) { return site == Site::kEmbedTokens || site == Site::kLmHead; }

// What a tensor that is none of ours would have needed in the config or the base.
const char* MeaningOf(const std::string& name) {
  if (name.ends_with(".weight") || name.ends_with(".bias")) {
    return "no module of the base has such a weight, or it would replace a whole module";
  }
  return "no tensor of LoRA is named so";
}

// Why a tensor of this part cannot be, given the config; nullptr: it can.
const char* ConfigForbids(PeftTensor part, const PeftLoraConfig& config) {
  switch (part) {
    case PeftTensor::kMagnitude:
      return config.use_dora ? nullptr : "a magnitude belongs to DoRA, and the config does not say use_dora";
    case PeftTensor::kDeltaBias:
      return config.lora_bias ? nullptr : "a bias on B, and the config does not say lora_bias";
    case PeftTensor::kTokenRows:
      return !config.trainable_tokens.empty()
                 ? nullptr
                 : "replaced embedding rows, and the config names no trainable_token_indices";
    default:
      return nullptr;
  }
}

const FileTensor** PlaceOf(PeftTensor part, ModuleTensors* module) {
  switch (part) {
    case PeftTensor::kLoraA:
    case PeftTensor::kEmbeddingA:
      return &module->a;
    case PeftTensor::kLoraB:
    case PeftTensor::kEmbeddingB:
      return &module->b;
    case PeftTensor::kMagnitude:
      return &module->magnitude;
    case PeftTensor::kDeltaBias:
      return &module->delta_bias;
    case PeftTensor::kBias:
      return &module->bias;
    case PeftTensor::kTable:
      return &module->table;
    case PeftTensor::kTokenRows:
      return &module->token_rows;
    case PeftTensor::kOriginal:
      return &module->original;
    case PeftTensor::kRepeated:
      return nullptr;
  }
  return nullptr;
}

class Sorter final {
 public:
  Sorter(const SafetensorsIndex& index, const PeftLoraConfig& config, const BaseShape& base, const Targets& targets)
      : index_(index), config_(config), modules_(AllModulesAnd(targets, base)), targets_(targets) {}

  absl::StatusOr<PeftTensors> Sort() {
    RETURN_IF_ERROR(CheckSavedNames());
    for (const FileTensor& tensor : index_.tensors) RETURN_IF_ERROR(Place(tensor));
    for (const auto& [path, tensors] : sorted_.modules) RETURN_IF_ERROR(CheckModule(path, tensors));
    RETURN_IF_ERROR(CheckNoneMissing("tensors", [](const ModuleTensors& m) { return m.has_pair(); }));
    if (config_.use_dora) {
      RETURN_IF_ERROR(CheckNoneMissing("lora_magnitude_vector (DoRA)",
                                       [](const ModuleTensors& m) { return m.magnitude != nullptr; }));
    }
    if (config_.lora_bias) {
      RETURN_IF_ERROR(
          CheckNoneMissing("lora_B.bias (lora_bias)", [](const ModuleTensors& m) { return m.delta_bias != nullptr; }));
    }
    RETURN_IF_ERROR(CheckBiases());
    RETURN_IF_ERROR(CheckSaved());
    return std::move(sorted_);
  }

 private:
  absl::Status Place(const FileTensor& tensor) {
    const std::string about = About(index_, tensor);
    const std::optional<PeftTensorName> name = ParsePeftTensorName(tensor.first);
    if (!name.has_value()) return absl::InvalidArgumentError(absl::StrCat(about, MeaningOf(tensor.first)));
    if (const char* why = ConfigForbids(name->part, config_)) {
      return absl::InvalidArgumentError(absl::StrCat(about, why));
    }
    const auto module = modules_.find(name->path);
    const bool replaces = name->part == PeftTensor::kTable || name->part == PeftTensor::kBias ||
                          name->part == PeftTensor::kOriginal || name->part == PeftTensor::kRepeated;
    if (module == modules_.end() || !CanHave(name->part, name->path, *module->second.shape)) {
      return absl::InvalidArgumentError(
          absl::StrCat(about, replaces ? MeaningOf(tensor.first) : "the base has no such module that takes LoRA"));
    }
    const DType dtype = tensor.second.dtype;
    if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
      return absl::UnimplementedError(
          absl::StrCat(about, "dtype: ", std::string(Name(dtype)), "; supported: F32, BF16, F16"));
    }
    const Site site = module->second.shape->site;
    RETURN_IF_ERROR(CheckEmbeddingName(about, name->part, site));
    if (name->part == PeftTensor::kRepeated) return absl::OkStatus();
    const FileTensor** place = PlaceOf(name->part, &sorted_.modules[name->path]);
    if (*place != nullptr && name->part != PeftTensor::kMagnitude) {
      return absl::DataLossError(absl::StrCat(about, "stands for the same as tensor ", Printable((*place)->first)));
    }
    // A magnitude of a saved table is written under two names, with ".weight" and without; PEFT reads the longer one.
    if (*place == nullptr || tensor.first.size() > (*place)->first.size()) *place = &tensor;
    return absl::OkStatus();
  }

  // Whether a module of this shape can have such a tensor at all.
  bool CanHave(PeftTensor part, const std::string& path, const SiteShape& shape) const {
    const bool is_table = IsTableSite(shape.site);
    switch (part) {
      case PeftTensor::kTable:
        return is_table || (IsNorm(shape.site) && config_.Saves(path));
      case PeftTensor::kTokenRows:
        return is_table;
      case PeftTensor::kOriginal:
        return is_table && config_.Saves(path);
      case PeftTensor::kRepeated:  // of norms where `bias` is "all"
        return (is_table || IsNorm(shape.site)) && config_.Saves(path);
      case PeftTensor::kBias:
        return true;
      default:
        return !IsNorm(shape.site);
    }
  }

  static absl::Status CheckEmbeddingName(const std::string& about, PeftTensor part, Site site) {
    const bool embedding_name = part == PeftTensor::kEmbeddingA || part == PeftTensor::kEmbeddingB;
    const bool linear_name = part == PeftTensor::kLoraA || part == PeftTensor::kLoraB || part == PeftTensor::kDeltaBias;
    if (embedding_name && site != Site::kEmbedTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat(about, "lora_embedding_A and lora_embedding_B belong to an embedding"));
    }
    if (linear_name && site == Site::kEmbedTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat(about, "an embedding's pair is named lora_embedding_A and lora_embedding_B, and has no bias"));
    }
    return absl::OkStatus();
  }

  absl::Status CheckModule(const std::string& path, const ModuleTensors& tensors) const {
    const SiteShape& shape = *modules_.at(path).shape;
    for (const FileTensor* vector : {tensors.magnitude, tensors.delta_bias, tensors.bias}) {
      if (vector != nullptr) RETURN_IF_ERROR(CheckVector(path, *vector, shape.out_features));
    }
    if (tensors.bias != nullptr && !shape.has_bias) {
      return absl::InvalidArgumentError(
          absl::StrCat(About(index_, *tensors.bias), "the base's ", path, " has no bias"));
    }
    if (tensors.bias != nullptr && config_.bias == PeftBias::kNone && !SavesBias(path, tensors)) {
      return absl::InvalidArgumentError(
          absl::StrCat(About(index_, *tensors.bias), "a replaced bias, and the config says bias none"));
    }
    if (tensors.a == nullptr && tensors.b == nullptr) {
      if (tensors.magnitude == nullptr && tensors.delta_bias == nullptr) return absl::OkStatus();
      return absl::DataLossError(absl::StrCat(index_.path, ": ", path, ": has neither A nor B"));
    }
    if (!tensors.has_pair()) {
      return absl::DataLossError(absl::StrCat(index_.path, ": ", path, ": has ", tensors.a == nullptr ? "B" : "A",
                                              " but not ", tensors.a == nullptr ? "A" : "B"));
    }
    const auto target = targets_.find(path);
    if (target == targets_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_.path, ": ", path, ": has tensors, but adapter_config.json does not include this module"));
    }
    return CheckPair(path, tensors, target->second);
  }

  // PEFT of some versions stores a magnitude with a dimension of one.
  absl::Status CheckVector(const std::string& path, const FileTensor& tensor, int64_t wanted) const {
    const std::vector<int64_t>& shape = tensor.second.shape;
    const bool fits = (shape.size() == 1 && shape[0] == wanted) ||
                      (shape.size() == 2 && shape[0] * shape[1] == wanted && std::min(shape[0], shape[1]) == 1);
    if (fits) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(About(index_, tensor), "shape: ", ShapeText(shape), "; wanted: [",
                                                   wanted, "] for the base's ", path));
  }

  // PEFT saves a resized table beside the pair on it, which is as large.
  absl::Status CheckNotResized(const std::string& path, const ModuleTensors& tensors, const SiteShape& shape) const {
    if (tensors.table == nullptr) return absl::OkStatus();
    const std::vector<int64_t>& table = tensors.table->second.shape;
    const int64_t rows = shape.site == Site::kEmbedTokens ? shape.in_features : shape.out_features;
    if (table.size() != 2 || table[0] == rows) return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat(About(index_, *tensors.table), "shape: ", ShapeText(table),
                                                 "; rows of the base's ", path, ": ", rows,
                                                 "; not supported: LoRA on a resized embedding or head"));
  }

  absl::Status CheckPair(const std::string& path, const ModuleTensors& tensors, const TargetedModule& target) const {
    const std::vector<int64_t>& a = tensors.a->second.shape;
    const std::vector<int64_t>& b = tensors.b->second.shape;
    const SiteShape& shape = *target.shape;
    RETURN_IF_ERROR(CheckNotResized(path, tensors, shape));
    if (a.size() != 2 || a[1] * target.a_blocks != shape.in_features) {
      return absl::InvalidArgumentError(absl::StrCat(About(index_, *tensors.a), "shape: ", ShapeText(a),
                                                     "; wanted: [rank, ", shape.in_features / target.a_blocks,
                                                     "] for the base's ", path));
    }
    if (b.size() != 2 || b[0] != shape.out_features) {
      return absl::InvalidArgumentError(absl::StrCat(About(index_, *tensors.b), "shape: ", ShapeText(b), "; wanted: [",
                                                     shape.out_features, ", rank] for the base's ", path));
    }
    if (a[0] != b[1] * target.b_blocks) {
      return absl::DataLossError(absl::StrCat(index_.path, ": ", path,
                                              ": the two matrices of a pair have different ranks: A ", ShapeText(a),
                                              ", B ", ShapeText(b)));
    }
    const int64_t rank = a[0] / shape.experts;
    if (a[0] % shape.experts != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(About(index_, *tensors.a), "shape: ", ShapeText(a),
                       "; wanted: as many rows for each of the experts: ", shape.experts));
    }
    if (rank < 1 || rank > kMaxStoredRank) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_.path, ": ", path, ": rank: ", rank, "; limit: 1..", kMaxStoredRank));
    }
    if (rank != target.rank) {
      return absl::InvalidArgumentError(absl::StrCat(index_.path, ": ", path, ": rank: ", rank,
                                                     "; r or rank_pattern in adapter_config.json say: ", target.rank));
    }
    return absl::OkStatus();
  }

  template <typename Has>
  absl::Status CheckNoneMissing(const char* what, const Has& has) const {
    std::vector<std::string> missing;
    for (const auto& [path, target] : targets_) {
      const auto found = sorted_.modules.find(path);
      if (found == sorted_.modules.end() || !has(found->second)) missing.push_back(path);
    }
    return Missing(what, std::move(missing));
  }

  // lora_only saves the biases of the targeted modules, all every one of the base.
  absl::Status CheckBiases() const {
    if (config_.bias == PeftBias::kNone) return absl::OkStatus();
    std::vector<std::string> missing;
    for (const auto& [path, module] : modules_) {
      if (!module.shape->has_bias) continue;
      const bool wanted = config_.bias == PeftBias::kAll || targets_.contains(path);
      const auto found = sorted_.modules.find(path);
      const bool there = found != sorted_.modules.end() && found->second.bias != nullptr;
      if (wanted && !there) missing.push_back(path);
      if (!wanted && there && !SavesBias(path, found->second)) {
        return absl::InvalidArgumentError(absl::StrCat(About(index_, *found->second.bias),
                                                       "the config says bias lora_only, and this module has no LoRA"));
      }
    }
    return Missing("biases", std::move(missing));
  }

  // PEFT saves a head's bias with its weight, whatever the config says of biases.
  bool SavesBias(const std::string& path, const ModuleTensors& tensors) const {
    return config_.Saves(path) || (tensors.table != nullptr && IsTableSite(modules_.at(path).shape->site));
  }

  static bool IsReplaceable(Site site) { return IsTableSite(site) || IsNorm(site); }

  absl::Status CheckSavedNames() const {
    for (const std::string& end : config_.modules_to_save) {
      int64_t found = 0, replaceable = 0;
      for (const auto& [path, module] : modules_) {
        if (!absl::EndsWith(path, end)) continue;
        ++found;
        replaceable += IsReplaceable(module.shape->site);
      }
      if (found > 0 && found == replaceable) continue;
      return absl::UnimplementedError(
          absl::StrCat("adapter_config.json: modules_to_save: ", Printable(end),
                       "; only embedding, head and norms of the base can be replaced for one adapter"));
    }
    return absl::OkStatus();
  }

  // What modules_to_save names is there, whole.
  absl::Status CheckSaved() const {
    for (const auto& [path, module] : modules_) {
      if (!config_.Saves(path)) continue;
      const auto found = sorted_.modules.find(path);
      const bool has_weight = found != sorted_.modules.end() && found->second.table != nullptr;
      const bool has_bias = found != sorted_.modules.end() && found->second.bias != nullptr;
      if (has_weight && (has_bias || !module.shape->has_bias)) continue;
      return absl::DataLossError(absl::StrCat(index_.path, ": no ", has_weight ? "bias" : "weight", " of ", path,
                                              ", which modules_to_save in adapter_config.json names"));
    }
    return absl::OkStatus();
  }

  absl::Status Missing(const char* what, std::vector<std::string> paths) const {
    constexpr size_t kNamed = 8;
    if (paths.empty()) return absl::OkStatus();
    const size_t more = paths.size() - std::min(paths.size(), kNamed);
    paths.resize(paths.size() - more);
    return absl::DataLossError(absl::StrCat(
        index_.path, ": no ", what, " for modules that adapter_config.json includes: ", absl::StrJoin(paths, ", "),
        more > 0 ? absl::StrCat(" and more: ", more) : ""));
  }

  const SafetensorsIndex& index_;
  const PeftLoraConfig& config_;
  const Targets modules_;
  const Targets& targets_;
  PeftTensors sorted_;
};

}  // namespace

std::string About(const SafetensorsIndex& index, const FileTensor& tensor) {
  return absl::StrCat(index.path, ": tensor ", Printable(tensor.first), ": ");
}

absl::StatusOr<PeftTensors> SortPeftTensors(const SafetensorsIndex& index, const PeftLoraConfig& config,
                                            const BaseShape& base, const Targets& targets) {
  return Sorter(index, config, base, targets).Sort();
}

}  // namespace lorad
