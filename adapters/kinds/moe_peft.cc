#include "adapters/kinds/moe_peft.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/dora.h"
#include "adapters/kinds/adapter_file.h"
#include "adapters/kinds/moe_config.h"
#include "adapters/kinds/moe_places.h"
#include "adapters/kinds/peft_tensors.h"
#include "adapters/kinds/tensor_reader.h"
#include "adapters/kinds/tensor_writer.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

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

  absl::Status Fill(const MoePlace& place, ImageSlot* slot) const {
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
  absl::Status AddDora(const MoePlace& place, ImageSlot* slot) const {
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
std::vector<ImageSlot> PlannedSlots(const std::vector<MoePlace>& places) {
  std::vector<ImageSlot> slots;
  for (const MoePlace& place : places) {
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
  ASSIGN_OR_RETURN(const std::vector<MoePlace> places, FindMoePlaces(config, base, index));
  RETURN_IF_ERROR(CheckFitsPool(index.path, PlannedSlots(places), options));

  TensorReader reader(files, index.path);
  for (const MoePlace& place : places) {
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
      std::any_of(places.begin(), places.end(), [](const MoePlace& place) { return !place.magnitudes.empty(); });
  if ((config.lora.dora || config.expert.dora) && !has_magnitudes) image.warnings.push_back(kDoraWithoutMagnitudes);
  const PlaceFiller filler(index, reader, options, &digest);
  image.rank_min = kMaxStoredRank;
  for (const MoePlace& place : places) {
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
