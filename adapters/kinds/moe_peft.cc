#include "adapters/kinds/moe_peft.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/dora.h"
#include "adapters/kinds/adapter_file.h"
#include "adapters/kinds/moe_config.h"
#include "adapters/kinds/moe_names.h"
#include "adapters/kinds/peft_tensors.h"
#include "adapters/kinds/tensor_reader.h"
#include "adapters/kinds/tensor_writer.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

// Tensors of one place, by what they are. One pair, or one for each expert.
struct Place {
  ImageSlot slot;
  std::vector<const FileTensor*> a, b;
  std::vector<const FileTensor*> magnitudes;  // of DoRA; MoE-PEFT itself writes none
  const FileTensor* router = nullptr;
};

class MoeReader final {
 public:
  MoeReader(const MoeConfig& config, const BaseShape& base, const SafetensorsIndex& index)
      : config_(config), base_(base), index_(index) {}

  absl::StatusOr<std::vector<Place>> FindPlaces() {
    RETURN_IF_ERROR(FindTargets());
    RETURN_IF_ERROR(TakeNames());
    std::vector<Place> places;
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

  absl::Status AddFfnRouter(int32_t layer, std::vector<Place>* places) {
    Place place;
    place.slot.site = Site::kFfn;
    place.slot.layer = layer;
    place.slot.experts = config_.experts;
    RETURN_IF_ERROR(TakeRouter(MoeFfnPath(config_.prefix, layer), base_.hidden_size, &place));
    places->push_back(std::move(place));
    return absl::OkStatus();
  }

  absl::Status AddProjection(const SiteShape& shape, int32_t layer, std::vector<Place>* places) {
    const bool routed = HasExperts(config_.kind, shape.site);
    const MoeRank& rank = routed ? config_.expert : config_.lora;
    Place place;
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

  absl::Status TakeRouter(const std::string& path, int64_t in, Place* place) {
    ASSIGN_OR_RETURN(place->router, Take(path + ".moe_gate.weight", {config_.experts, in}));
    return absl::OkStatus();
  }

  // If the file has it. What DoRA would be where each linear has a router is not said anywhere.
  absl::Status TakeMagnitude(const std::string& pair, const SiteShape& shape, Place* place) {
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

// The experts' matrices [rows, columns] as one: below each other, or side by side.
HostTensor Together(const std::vector<HostTensor>& parts, bool side_by_side) {
  const auto count = static_cast<int64_t>(parts.size());
  const int64_t rows = parts[0].shape[0], columns = parts[0].shape[1];
  const int64_t row_bytes = columns * SizeBytes(parts[0].dtype);
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(count * rows * row_bytes));
  for (int64_t part = 0; part < count; ++part) {
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t place = side_by_side ? row * count + part : part * rows + row;
      std::memcpy(bytes->data() + place * row_bytes, parts[static_cast<size_t>(part)].data() + row * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
  }
  const std::vector<int64_t> shape =
      side_by_side ? std::vector<int64_t>{rows, count * columns} : std::vector<int64_t>{count * rows, columns};
  return {.dtype = parts[0].dtype, .shape = shape, .bytes = std::move(bytes)};
}

// The tensors of one place, as applied.
class PlaceFiller final {
 public:
  PlaceFiller(const SafetensorsIndex& index, const TensorReader& reader, const AdapterReadOptions& options,
              Sha256* digest)
      : index_(index), reader_(reader), options_(options), digest_(*digest) {}

  absl::Status Fill(const Place& place, ImageSlot* slot) const {
    digest_.UpdateInt(static_cast<int64_t>(slot->site));
    digest_.UpdateInt(slot->layer);
    digest_.UpdateInt(slot->experts);
    digest_.Update(&slot->scale, sizeof(slot->scale));
    if (!place.a.empty()) {
      ASSIGN_OR_RETURN(slot->a, Read(place.a, /*side_by_side=*/false));
      ASSIGN_OR_RETURN(slot->b, Read(place.b, /*side_by_side=*/true));
    }
    if (place.router != nullptr) {
      ASSIGN_OR_RETURN(slot->router, ReadOne(*place.router, DType::kF32));
    }
    return place.magnitudes.empty() ? absl::OkStatus() : AddDora(place, slot);
  }

 private:
  // Magnitudes, and the factors that they come to with the base's weight.
  absl::Status AddDora(const Place& place, ImageSlot* slot) const {
    if (options_.base_tables == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat(About(index_, *place.magnitudes[0]), "DoRA needs the base's weights, which are not at hand"));
    }
    ASSIGN_OR_RETURN(const BaseTable weight, options_.base_tables({.site = slot->site, .layer = slot->layer}));
    std::vector<HostTensor> magnitudes;
    for (size_t expert = 0; expert < place.magnitudes.size(); ++expert) {
      const FileTensor& tensor = *place.magnitudes[expert];
      ASSIGN_OR_RETURN(HostTensor magnitude, ReadOne(tensor, DType::kF32));
      magnitude.shape = {1, magnitude.elements()};
      const int64_t first = static_cast<int64_t>(expert) * slot->rank;
      const auto terms = ComputeDoraTerms(weight, /*embedding=*/false, RowsOf(slot->a, first, slot->rank),
                                          ColumnsOf(slot->b, first, slot->rank), magnitude, slot->scale);
      if (!terms.ok()) {
        return absl::DataLossError(absl::StrCat(About(index_, tensor), std::string(terms.status().message())));
      }
      slot->dora.insert(slot->dora.end(), terms->values.begin(), terms->values.end());
      if (magnitude.dtype != (magnitudes.empty() ? magnitude : magnitudes[0]).dtype) {
        return absl::UnimplementedError(absl::StrCat(About(index_, tensor), "other experts have another dtype"));
      }
      magnitudes.push_back(std::move(magnitude));
    }
    slot->magnitude = Together(magnitudes, /*side_by_side=*/false);
    return absl::OkStatus();
  }

  absl::StatusOr<HostTensor> Read(const std::vector<const FileTensor*>& tensors, bool side_by_side) const {
    std::vector<HostTensor> parts;
    for (const FileTensor* tensor : tensors) {
      if (tensor->second.dtype != tensors[0]->second.dtype) {
        return absl::UnimplementedError(absl::StrCat(About(index_, *tensor),
                                                     "dtype: ", std::string(Name(tensor->second.dtype)),
                                                     "; other experts have another"));
      }
      ASSIGN_OR_RETURN(HostTensor part, ReadOne(*tensor, options_.pool_dtype));
      parts.push_back(std::move(part));
    }
    if (parts.size() == 1) return parts[0];
    return Together(parts, side_by_side);
  }

  absl::StatusOr<HostTensor> ReadOne(const FileTensor& tensor, DType finite_in) const {
    HostTensor host = reader_.Get(tensor.second);
    RETURN_IF_ERROR(CheckFinite(About(index_, tensor), host, finite_in));
    digest_.UpdateInt(static_cast<int64_t>(host.dtype));
    for (const int64_t size : host.shape) digest_.UpdateInt(size);
    digest_.Update(host.data(), static_cast<size_t>(host.elements() * SizeBytes(host.dtype)));
    return host;
  }

  const SafetensorsIndex& index_;
  const TensorReader& reader_;
  const AdapterReadOptions& options_;
  Sha256& digest_;
};

// Shapes alone, to know the size before anything is read.
std::vector<ImageSlot> PlannedSlots(const std::vector<Place>& places) {
  std::vector<ImageSlot> slots;
  for (const Place& place : places) {
    slots.push_back(place.slot);
    ImageSlot& slot = slots.back();
    if (place.router != nullptr) slot.router.shape = place.router->second.shape;
    if (place.a.empty()) continue;
    slot.a.shape = {slot.experts * slot.rank, place.a[0]->second.shape[1]};
    slot.b.shape = {place.b[0]->second.shape[0], slot.experts * slot.rank};
    if (!place.magnitudes.empty()) slot.magnitude.shape = {slot.experts, slot.b.shape[0]};
  }
  return slots;
}

void AddRule(const RoutingRule& rule, Sha256* digest) {
  digest->UpdateInt(static_cast<int64_t>(rule.choice));
  digest->UpdateInt(rule.top_k);
  digest->UpdateInt(rule.renormalise ? 1 : 0);
  digest->Update(&rule.top_p, sizeof(rule.top_p));
  digest->Update(&rule.temperature, sizeof(rule.temperature));
  digest->UpdateInt(rule.activation.has_value() ? static_cast<int64_t>(*rule.activation) : -1);
}

}  // namespace

absl::StatusOr<AdapterImage> ReadMoePeft(const std::string& dir, const AdapterConfigJson& json, const BaseShape& base,
                                         FileSource& files, const AdapterReadOptions& options) {
  ASSIGN_OR_RETURN(const MoeConfig config, ParseMoeConfig(json));
  ASSIGN_OR_RETURN(const SafetensorsIndex index, FindAdapterTensors(files, dir));
  ASSIGN_OR_RETURN(const std::vector<Place> places, MoeReader(config, base, index).FindPlaces());
  RETURN_IF_ERROR(CheckFitsPool(index.path, PlannedSlots(places), options));

  TensorReader reader(files, index.path);
  for (const Place& place : places) {
    for (const std::vector<const FileTensor*>& tensors : {place.a, place.b, place.magnitudes}) {
      for (const FileTensor* tensor : tensors) reader.Want(tensor->second);
    }
    if (place.router != nullptr) reader.Want(place.router->second);
  }
  RETURN_IF_ERROR(reader.Read());

  AdapterImage image;
  image.kind = config.name;
  image.routing = config.routing;
  image.warnings = config.warnings;
  image.targets = config.targets;
  Sha256 digest;
  digest.Update(config.name);
  AddRule(config.routing, &digest);
  const bool has_magnitudes =
      std::any_of(places.begin(), places.end(), [](const Place& place) { return !place.magnitudes.empty(); });
  if ((config.lora.dora || config.expert.dora) && !has_magnitudes) image.warnings.push_back(kDoraWithoutMagnitudes);
  const PlaceFiller filler(index, reader, options, &digest);
  image.rank_min = kMaxStoredRank;
  for (const Place& place : places) {
    ImageSlot slot = place.slot;
    RETURN_IF_ERROR(filler.Fill(place, &slot));
    if (slot.rank > 0) image.rank_min = std::min(image.rank_min, slot.rank);
    image.rank_max = std::max(image.rank_max, slot.rank);
    image.slots.push_back(std::move(slot));
  }
  image.rank_min = std::min(image.rank_min, image.rank_max);
  image.digest = digest.HexDigest();
  std::sort(image.slots.begin(), image.slots.end(), [](const ImageSlot& x, const ImageSlot& y) {
    return std::pair(x.site, x.layer) < std::pair(y.site, y.layer);
  });
  return image;
}

}  // namespace lorad
