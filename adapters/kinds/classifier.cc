#include "adapters/kinds/classifier.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/float_convert.h"
#include "adapters/kinds/moe_names.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr const char* kModules[] = {"score", "classifier"};
constexpr int64_t kMostLabels = 65'536;

bool IsClassifier(std::string_view name) {
  constexpr std::string_view kPrefix = "base_model.model.";
  if (name == kMoeClassifier) return true;
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  return std::any_of(std::begin(kModules), std::end(kModules),
                     [&](const char* module) { return name == absl::StrCat(module, ".weight"); });
}

absl::Status CheckClassifier(const std::string& about, const SafetensorsEntry& entry, const BaseShape& base) {
  const SiteShape* head = base.Find(Site::kLmHead);
  // Gemma 2 caps the logits of its head, and those of no classifier.
  if (head == nullptr || base.model_type == "gemma2") {
    return absl::UnimplementedError(
        absl::StrCat(about, "a classifier on a base of type ", base.model_type, " is not supported"));
  }
  if (entry.dtype != DType::kF32 && entry.dtype != DType::kBF16 && entry.dtype != DType::kF16) {
    return absl::UnimplementedError(
        absl::StrCat(about, "dtype: ", std::string(Name(entry.dtype)), "; supported: F32, BF16, F16"));
  }
  const int64_t most = std::min(kMostLabels, base.vocab_size);
  if (entry.shape.size() == 2 && entry.shape[0] >= 1 && entry.shape[0] <= most && entry.shape[1] == head->in_features) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(about, "shape: ", ShapeText(entry.shape), "; wanted: [1 to ", most,
                                                 " labels, ", head->in_features, "]"));
}

// A classifier has no bias: what the base's head has is taken off the labels.
absl::Status DropHeadBias(const BaseShape& base, int64_t labels, const AdapterReadOptions& options, ImageSlot* slot) {
  if (!base.Find(Site::kLmHead)->has_bias) return absl::OkStatus();
  if (options.base_tables == nullptr) {
    return absl::UnimplementedError("a classifier on a base whose head has a bias, which is not at hand");
  }
  ASSIGN_OR_RETURN(const BaseTable of_base, options.base_tables({.site = Site::kLmHead, .bias = true}));
  std::vector<float> bias(static_cast<size_t>(of_base.rows));
  ToF32(of_base.dtype, of_base.data, of_base.rows, bias.data());
  slot->bias_change.assign(bias.size(), 0.0f);
  for (int64_t i = 0; i < labels; ++i) slot->bias_change[i] = -std::exchange(bias[i], 0.0f);
  auto bytes = std::make_shared<std::vector<std::byte>>(bias.size() * sizeof(float));
  std::memcpy(bytes->data(), bias.data(), bytes->size());
  slot->bias = {.dtype = DType::kF32, .shape = {of_base.rows}, .bytes = std::move(bytes)};
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<FileTensor>> TakeClassifier(const BaseShape& base, SafetensorsIndex* index,
                                                         PeftLoraConfig* config) {
  std::optional<FileTensor> taken;
  for (auto tensor = index->tensors.begin(); tensor != index->tensors.end();) {
    if (!IsClassifier(tensor->first)) {
      ++tensor;
      continue;
    }
    const std::string about = About(*index, *tensor);
    if (taken.has_value()) return absl::DataLossError(absl::StrCat(about, "a second classifier"));
    RETURN_IF_ERROR(CheckClassifier(about, tensor->second, base));
    taken.emplace(*tensor);
    tensor = index->tensors.erase(tensor);
  }
  if (!taken.has_value()) return taken;
  std::erase_if(config->modules_to_save, [](const std::string& saved) {
    return std::find(std::begin(kModules), std::end(kModules), saved) != std::end(kModules);
  });
  return taken;
}

absl::Status AddClassifier(const std::string& path, const FileTensor& classifier, const BaseShape& base,
                           FileSource& files, const AdapterReadOptions& options, AdapterImage* image) {
  const auto& [name, entry] = classifier;
  const std::string about = absl::StrCat(path, ": tensor ", Printable(name), ": ");
  const auto is_head = [](const ImageSlot& slot) { return slot.site == Site::kLmHead; };
  if (std::any_of(image->slots.begin(), image->slots.end(), is_head)) {
    return absl::UnimplementedError(absl::StrCat(about, "a classifier and a change of the base's head"));
  }
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(entry.size_bytes));
  RETURN_IF_ERROR(ReadTensor(files, path, entry, bytes->data()));
  const int64_t labels = entry.shape[0];
  ImageSlot slot;
  slot.site = Site::kLmHead;
  slot.rows = {.dtype = entry.dtype, .shape = entry.shape, .bytes = std::move(bytes)};
  if (FirstNotFinite(entry.dtype, slot.rows.data(), slot.rows.elements(), options.pool_dtype) >= 0) {
    return absl::DataLossError(absl::StrCat(about, "NaN or infinity in the serving type"));
  }
  RETURN_IF_ERROR(DropHeadBias(base, labels, options, &slot));

  Sha256 digest;
  digest.Update(image->digest);
  digest.Update("classifier");
  for (const int64_t size : entry.shape) digest.UpdateInt(size);
  digest.UpdateInt(static_cast<int64_t>(entry.dtype));
  digest.Update(slot.rows.data(), static_cast<size_t>(entry.size_bytes));
  image->digest = digest.HexDigest();
  image->num_labels = static_cast<int32_t>(labels);
  const auto after = std::upper_bound(image->slots.begin(), image->slots.end(), Site::kLmHead,
                                      [](Site site, const ImageSlot& other) { return site < other.site; });
  image->slots.insert(after, std::move(slot));
  return absl::OkStatus();
}

}  // namespace lorad
