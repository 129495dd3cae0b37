#include "adapters/kinds/moe_places.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/kinds/moe_names.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

class PlaceFinder final {
 public:
  PlaceFinder(const MoeConfig& config, const BaseShape& base, const SafetensorsIndex& index)
      : config_(config), base_(base), index_(index) {}

  absl::StatusOr<std::vector<MoePlace>> Find() {
    RETURN_IF_ERROR(FindTargets());
    RETURN_IF_ERROR(TakeNames());
    std::vector<MoePlace> places;
    for (int32_t layer = 0; layer < base_.num_layers; ++layer) {
      if (config_.kind == MoeKind::kMixLora) RETURN_IF_ERROR(AddFfnRouter(layer, &places));
      for (const SiteShape* shape : targets_) RETURN_IF_ERROR(AddProjection(*shape, layer, &places));
    }
    if (has_magnitudes_) missing_.insert(missing_.end(), without_magnitude_.begin(), without_magnitude_.end());
    if (!missing_.empty()) return Missing();
    if (!tensors_.empty()) {
      const FileTensor& left = *tensors_.begin()->second;
      return absl::InvalidArgumentError(absl::StrCat(
          About(index_, left), left.first == kMoeClassifier ? "a classifier's head; not supported yet"
                                                            : "the base or adapter_config.json has no such place"));
    }
    return places;
  }

 private:
  // The modules that the config names.
  absl::Status FindTargets() {
    for (const std::string& target : config_.targets) {
      const SiteShape* found = FindMoeTarget(base_, target);
      if (found == nullptr) {
        return absl::InvalidArgumentError(absl::StrCat("adapter_config.json: target_modules: ", Printable(target),
                                                       "; matches no module of the base that takes LoRA"));
      }
      if (std::find(targets_.begin(), targets_.end(), found) == targets_.end()) targets_.push_back(found);
    }
    if (base_.Find(Site::kRouter) != nullptr) {
      return absl::UnimplementedError(absl::StrCat("adapter_config.json: ", config_.name,
                                                   "; not supported on a base whose own layers have routed experts"));
    }
    return absl::OkStatus();
  }

  absl::Status TakeNames() {
    for (const FileTensor& tensor : index_.tensors) {
      const auto [other, is_new] = tensors_.emplace(PresentMoeName(tensor.first), &tensor);
      if (!is_new) {
        return absl::DataLossError(
            absl::StrCat(About(index_, tensor), "stands for the same as tensor ", Printable(other->second->first)));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddFfnRouter(int32_t layer, std::vector<MoePlace>* places) {
    MoePlace place;
    place.slot.site = Site::kFfn;
    place.slot.layer = layer;
    place.slot.experts = config_.experts;
    RETURN_IF_ERROR(TakeRouter(MoeFfnPath(config_.prefix, layer), base_.hidden_size, &place));
    places->push_back(std::move(place));
    return absl::OkStatus();
  }

  absl::Status AddProjection(const SiteShape& shape, int32_t layer, std::vector<MoePlace>* places) {
    const bool routed = HasExperts(config_.kind, shape.site);
    const MoeRank& rank = routed ? config_.expert : config_.lora;
    MoePlace place;
    place.slot.site = shape.site;
    place.slot.layer = layer;
    place.slot.experts = routed ? config_.experts : 1;
    place.slot.rank = static_cast<int32_t>(rank.rank);
    place.slot.scale = rank.scale;
    const std::string path = MoeProjectionPath(config_.prefix, layer, shape);
    for (int32_t expert = 0; expert < place.slot.experts; ++expert) {
      const std::string pair = routed ? absl::StrCat(path, ".experts.", expert) : path;
      ASSIGN_OR_RETURN(const FileTensor* a, Take(pair + ".lora_A.weight", {rank.rank, shape.in_features}));
      ASSIGN_OR_RETURN(const FileTensor* b, Take(pair + ".lora_B.weight", {shape.out_features, rank.rank}));
      place.a.push_back(a);
      place.b.push_back(b);
      if (rank.dora) RETURN_IF_ERROR(TakeMagnitude(pair, shape, &place));
    }
    if (routed && config_.kind != MoeKind::kMixLora) RETURN_IF_ERROR(TakeRouter(path, shape.in_features, &place));
    places->push_back(std::move(place));
    return absl::OkStatus();
  }

  absl::Status TakeRouter(const std::string& path, int64_t in, MoePlace* place) {
    ASSIGN_OR_RETURN(place->router, Take(path + ".moe_gate.weight", {config_.experts, in}));
    return absl::OkStatus();
  }

  // If the file has it. What DoRA would be where each linear has a router is not said anywhere.
  absl::Status TakeMagnitude(const std::string& pair, const SiteShape& shape, MoePlace* place) {
    const std::string name = pair + ".lora_magnitude_vector";
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      without_magnitude_.push_back(name);
      return absl::OkStatus();
    }
    if (config_.kind != MoeKind::kMixLora) {
      return absl::UnimplementedError(
          absl::StrCat(About(index_, *found->second), "DoRA of ", config_.name, ": not supported; limit: MixLoRA"));
    }
    ASSIGN_OR_RETURN(const FileTensor* magnitude, Take(name, {shape.out_features}));
    place->magnitudes.push_back(magnitude);
    has_magnitudes_ = true;
    return absl::OkStatus();
  }

  // nullptr, and a note, if the file has none.
  absl::StatusOr<const FileTensor*> Take(const std::string& name, const std::vector<int64_t>& shape) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      missing_.push_back(name);
      return nullptr;
    }
    const FileTensor* tensor = found->second;
    tensors_.erase(found);
    if (tensor->second.shape != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(About(index_, *tensor), "shape: ", ShapeText(tensor->second.shape),
                       "; wanted by the base and adapter_config.json: ", ShapeText(shape)));
    }
    const DType dtype = tensor->second.dtype;
    if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
      return absl::UnimplementedError(
          absl::StrCat(About(index_, *tensor), "dtype: ", std::string(Name(dtype)), "; supported: F32, BF16, F16"));
    }
    return tensor;
  }

  absl::Status Missing() const {
    constexpr size_t kNamed = 8;
    std::vector<std::string> named(missing_.begin(),
                                   missing_.begin() + static_cast<int64_t>(std::min(kNamed, missing_.size())));
    return absl::DataLossError(
        absl::StrCat(index_.path, ": no tensors that adapter_config.json asks for: ", absl::StrJoin(named, ", "),
                     missing_.size() > kNamed ? absl::StrCat(" and more: ", missing_.size() - kNamed) : ""));
  }

  const MoeConfig& config_;
  const BaseShape& base_;
  const SafetensorsIndex& index_;
  std::vector<const SiteShape*> targets_;
  std::map<std::string, const FileTensor*> tensors_;  // by present name; those that no place has taken
  std::vector<std::string> missing_;
  // MoE-PEFT itself writes no magnitudes; a file that has some has to have all.
  std::vector<std::string> without_magnitude_;
  bool has_magnitudes_ = false;
};

}  // namespace

absl::StatusOr<std::vector<MoePlace>> FindMoePlaces(const MoeConfig& config, const BaseShape& base,
                                                    const SafetensorsIndex& index) {
  return PlaceFinder(config, base, index).Find();
}

}  // namespace lorad
