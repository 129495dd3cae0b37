#include "adapters/kinds/lora.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adapters/float_convert.h"
#include "adapters/kinds/base_table_check.h"
#include "adapters/kinds/peft_config.h"
#include "adapters/kinds/peft_targets.h"
#include "adapters/kinds/peft_tensor_name.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

using Tensor = std::pair<const std::string, SafetensorsEntry>;  // name in the file, place

struct Pair {
  const Tensor* a = nullptr;
  const Tensor* b = nullptr;
};
struct Table {
  const Tensor* tensor = nullptr;
  Site site = Site::kEmbedTokens;
};

// The file's tensors in their places; nothing is read yet.
struct Sorted {
  std::map<std::string, Pair> pairs;  // by the module's path
  std::vector<Table> tables;
};

std::string About(const SafetensorsIndex& index, const Tensor& tensor) {
  return absl::StrCat(index.path, ": tensor ", Printable(tensor.first), ": ");
}

bool IsTableSite(Site site) { return site == Site::kEmbedTokens || site == Site::kLmHead; }

// What a tensor that is none of ours would have needed in the config.
const char* MeaningOf(const std::string& name) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (has("lora_magnitude_vector")) return "a magnitude belongs to DoRA, and the config does not say use_dora";
  if (has("lora_B.") && has(".bias")) return "a bias on B, and the config does not say lora_bias";
  if (has("trainable_tokens_delta")) return "replaced embedding rows, and the config names no trainable_token_indices";
  if (has(".bias")) return "a replaced bias, and the config says bias none";
  if (name.ends_with(".weight")) return "no module of the base has such a weight, or it would replace a whole module";
  return "no tensor of LoRA is named so";
}

absl::Status SortTensor(const SafetensorsIndex& index, const Tensor& tensor,
                        const std::map<std::string, TargetedModule>& modules, Sorted* sorted) {
  const std::string about = About(index, tensor);
  const std::optional<PeftTensorName> name = ParsePeftTensorName(tensor.first);
  if (!name.has_value()) return absl::InvalidArgumentError(absl::StrCat(about, MeaningOf(tensor.first)));
  const auto module = modules.find(name->path);
  const bool is_table = name->part == PeftTensor::kTable;
  if (module == modules.end() || (is_table && !IsTableSite(module->second.shape->site))) {
    return absl::InvalidArgumentError(
        absl::StrCat(about, is_table ? MeaningOf(tensor.first) : "the base has no such module that takes LoRA"));
  }
  const DType dtype = tensor.second.dtype;
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16) {
    return absl::UnimplementedError(
        absl::StrCat(about, "dtype: ", std::string(Name(dtype)), "; supported: F32, BF16, F16"));
  }
  const Site site = module->second.shape->site;
  if (is_table) {
    sorted->tables.push_back({.tensor = &tensor, .site = site});
    return absl::OkStatus();
  }
  const bool embedding_name = name->part == PeftTensor::kEmbeddingA || name->part == PeftTensor::kEmbeddingB;
  if (embedding_name != (site == Site::kEmbedTokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat(about, embedding_name ? "lora_embedding_A and lora_embedding_B belong to an embedding"
                                           : "an embedding's pair is named lora_embedding_A and lora_embedding_B"));
  }
  Pair& pair = sorted->pairs[name->path];
  const bool is_a = name->part == PeftTensor::kLoraA || name->part == PeftTensor::kEmbeddingA;
  const Tensor*& place = is_a ? pair.a : pair.b;
  if (place != nullptr) {
    return absl::DataLossError(absl::StrCat(about, "stands for the same matrix as tensor ", Printable(place->first)));
  }
  place = &tensor;
  return absl::OkStatus();
}

absl::Status CheckShape(const SafetensorsIndex& index, const std::string& path, const Pair& pair,
                        const TargetedModule& target) {
  const std::vector<int64_t>& a = pair.a->second.shape;
  const std::vector<int64_t>& b = pair.b->second.shape;
  const SiteShape& shape = *target.shape;
  if (a.size() != 2 || a[1] != shape.in_features) {
    return absl::InvalidArgumentError(absl::StrCat(About(index, *pair.a), "shape: ", ShapeText(a), "; wanted: [rank, ",
                                                   shape.in_features, "] for the base's ", path));
  }
  if (b.size() != 2 || b[0] != shape.out_features) {
    return absl::InvalidArgumentError(absl::StrCat(About(index, *pair.b), "shape: ", ShapeText(b), "; wanted: [",
                                                   shape.out_features, ", rank] for the base's ", path));
  }
  if (a[0] != b[1]) {
    return absl::DataLossError(absl::StrCat(index.path, ": ", path,
                                            ": the two matrices of a pair have different ranks: A ", ShapeText(a),
                                            ", B ", ShapeText(b)));
  }
  if (a[0] < 1 || a[0] > kMaxStoredRank) {
    return absl::InvalidArgumentError(
        absl::StrCat(index.path, ": ", path, ": rank: ", a[0], "; limit: 1..", kMaxStoredRank));
  }
  if (a[0] != target.rank) {
    return absl::InvalidArgumentError(absl::StrCat(index.path, ": ", path, ": rank: ", a[0],
                                                   "; r or rank_pattern in adapter_config.json say: ", target.rank));
  }
  return absl::OkStatus();
}

absl::Status CheckNoneMissing(const SafetensorsIndex& index, const std::map<std::string, TargetedModule>& targets,
                              const std::map<std::string, Pair>& pairs) {
  constexpr size_t kNamed = 8;
  std::vector<std::string> missing;
  for (const auto& [path, target] : targets) {
    if (!pairs.contains(path)) missing.push_back(path);
  }
  if (missing.empty()) return absl::OkStatus();
  const size_t more = missing.size() - std::min(missing.size(), kNamed);
  missing.resize(missing.size() - more);
  return absl::DataLossError(absl::StrCat(
      index.path, ": no tensors for modules that adapter_config.json includes: ", absl::StrJoin(missing, ", "),
      more > 0 ? absl::StrCat(" and more: ", more) : ""));
}

// The file has whole pairs for exactly what the config targets.
absl::Status CheckPairs(const SafetensorsIndex& index, const std::map<std::string, TargetedModule>& targets,
                        const std::map<std::string, Pair>& pairs) {
  for (const auto& [path, pair] : pairs) {
    if (pair.a == nullptr || pair.b == nullptr) {
      return absl::DataLossError(absl::StrCat(index.path, ": ", path, ": has ", pair.a == nullptr ? "B" : "A",
                                              " but not ", pair.a == nullptr ? "A" : "B"));
    }
    const auto target = targets.find(path);
    if (target == targets.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(index.path, ": ", path, ": has tensors, but adapter_config.json does not include this module"));
    }
    RETURN_IF_ERROR(CheckShape(index, path, pair, target->second));
  }
  return CheckNoneMissing(index, targets, pairs);
}

// Reads the pairs into one buffer, in the file's order, each stretch that lies together at once.
class PairReader final {
 public:
  PairReader(FileSource& files, const std::string& path) : files_(files), path_(path) {}

  void Want(const SafetensorsEntry& entry) { wanted_.push_back(&entry); }

  absl::Status Read() {
    std::sort(wanted_.begin(), wanted_.end(),
              [](const SafetensorsEntry* x, const SafetensorsEntry* y) { return x->offset_bytes < y->offset_bytes; });
    int64_t total = 0;
    for (const SafetensorsEntry* entry : wanted_) {
      places_[entry] = total;
      total += entry->size_bytes;
    }
    auto buffer = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(total));
    for (size_t i = 0; i < wanted_.size();) {
      const int64_t begin = wanted_[i]->offset_bytes;
      std::byte* const destination = buffer->data() + places_[wanted_[i]];
      int64_t end = begin;
      for (; i < wanted_.size() && wanted_[i]->offset_bytes == end; ++i) end += wanted_[i]->size_bytes;
      RETURN_IF_ERROR(files_.ReadAt(path_, begin, end - begin, destination));
    }
    buffer_ = std::move(buffer);
    return absl::OkStatus();
  }

  HostTensor Get(const SafetensorsEntry& entry) const {
    return {.dtype = entry.dtype, .shape = entry.shape, .bytes = buffer_, .offset_bytes = places_.at(&entry)};
  }

 private:
  FileSource& files_;
  const std::string& path_;
  std::vector<const SafetensorsEntry*> wanted_;
  std::map<const SafetensorsEntry*, int64_t> places_;
  std::shared_ptr<const std::vector<std::byte>> buffer_;
};

absl::Status CheckFinite(const SafetensorsIndex& index, const Tensor& tensor, const HostTensor& host,
                         DType pool_dtype) {
  const int64_t at = FirstNotFinite(host.dtype, host.data(), host.elements(), pool_dtype);
  if (at < 0) return absl::OkStatus();
  if (FirstNotFinite(host.dtype, host.data(), host.elements(), host.dtype) >= 0) {
    return absl::DataLossError(absl::StrCat(About(index, tensor), "NaN or infinity at element: ", at));
  }
  return absl::InvalidArgumentError(absl::StrCat(About(index, tensor), "too large for the serving type ",
                                                 std::string(Name(pool_dtype)), " at element: ", at));
}

// What is applied, whatever the file's prefixes and the config's way of saying it.
void AddToDigest(const std::string& path, const ImageSlot& slot, Sha256* digest) {
  for (const HostTensor* tensor : {&slot.a, &slot.b}) {
    digest->UpdateInt(static_cast<int64_t>(path.size()));
    digest->Update(path);
    digest->UpdateInt(static_cast<int64_t>(tensor->dtype));
    digest->UpdateInt(tensor->shape[0]);
    digest->UpdateInt(tensor->shape[1]);
    digest->Update(tensor->data(), static_cast<size_t>(tensor->elements() * SizeBytes(tensor->dtype)));
  }
  digest->Update(&slot.scale, sizeof(slot.scale));
}

// The pairs with their places and shapes; no bytes yet.
std::vector<ImageSlot> PlanSlots(const Sorted& sorted, const std::map<std::string, TargetedModule>& targets) {
  const auto unread = [](const SafetensorsEntry& entry) {
    return HostTensor{.dtype = entry.dtype, .shape = entry.shape};
  };
  std::vector<ImageSlot> slots;
  for (const auto& [path, pair] : sorted.pairs) {
    const TargetedModule& target = targets.at(path);
    slots.push_back({.site = target.shape->site,
                     .layer = target.layer,
                     .rank = static_cast<int32_t>(target.rank),
                     .scale = target.scale,
                     .a = unread(pair.a->second),
                     .b = unread(pair.b->second)});
  }
  return slots;
}

// Before the tensors are read: an adapter that can never be served takes no memory.
absl::Status CheckFitsPool(const std::string& path, const std::vector<ImageSlot>& slots,
                           const AdapterReadOptions& options) {
  if (options.max_pool_bytes == 0) return absl::OkStatus();
  AdapterImage unread;
  unread.slots = slots;
  const int64_t bytes = PlanLayout(unread, options.pool_dtype).total_bytes;
  if (bytes <= options.max_pool_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(path, ": adapter larger than the memory for KV and adapters: bytes: ",
                                                 bytes, "; limit: ", options.max_pool_bytes, "; raise --memory-bytes"));
}

absl::StatusOr<AdapterImage> ReadImage(const SafetensorsIndex& index, const Sorted& sorted,
                                       std::vector<ImageSlot> slots, FileSource& files,
                                       const AdapterReadOptions& options) {
  PairReader reader(files, index.path);
  for (const auto& [path, pair] : sorted.pairs) {
    reader.Want(pair.a->second);
    reader.Want(pair.b->second);
  }
  RETURN_IF_ERROR(reader.Read());

  AdapterImage image;
  image.kind = "lora";
  image.rank_min = kMaxStoredRank;
  Sha256 digest;
  digest.Update("lora");
  size_t i = 0;
  for (const auto& [path, pair] : sorted.pairs) {
    ImageSlot& slot = slots[i++];
    slot.a = reader.Get(pair.a->second);
    slot.b = reader.Get(pair.b->second);
    RETURN_IF_ERROR(CheckFinite(index, *pair.a, slot.a, options.pool_dtype));
    RETURN_IF_ERROR(CheckFinite(index, *pair.b, slot.b, options.pool_dtype));
    AddToDigest(path, slot, &digest);
    image.rank_min = std::min(image.rank_min, slot.rank);
    image.rank_max = std::max(image.rank_max, slot.rank);
  }
  image.slots = std::move(slots);
  image.digest = digest.HexDigest();
  std::sort(image.slots.begin(), image.slots.end(), [](const ImageSlot& x, const ImageSlot& y) {
    return std::pair(x.site, x.layer) < std::pair(y.site, y.layer);
  });
  for (const ImageSlot& slot : image.slots) {
    const std::string target(Name(slot.site));
    if (image.targets.empty() || image.targets.back() != target) image.targets.push_back(target);
  }
  return image;
}

}  // namespace

bool RecognisesLora(const AdapterConfigJson& config) {
  const auto routing = config.find("routing_strategy");
  if (routing != config.end() && !routing->is_null()) return false;
  const auto type = config.find("peft_type");
  // MoE-PEFT's plain LoRA may leave the type out.
  return type == config.end() || type->is_null() ? config.contains("r") : *type == "LORA";
}

absl::StatusOr<AdapterImage> ReadLora(const std::string& dir, const AdapterConfigJson& json, const BaseShape& base,
                                      FileSource& files, const AdapterReadOptions& options) {
  ASSIGN_OR_RETURN(const PeftLoraConfig config, ParsePeftLoraConfig(json, base.model_type));
  using Targets = std::map<std::string, TargetedModule>;
  ASSIGN_OR_RETURN(const Targets targets, SelectTargets(config, base));

  const std::string path = absl::StrCat(dir, "/adapter_model.safetensors");
  if (!files.Exists(path)) {
    if (files.Exists(absl::StrCat(dir, "/adapter_model.bin"))) {
      return absl::UnimplementedError(absl::StrCat(
          dir, ": adapter_model.bin; pickled weights are not supported yet: save them as adapter_model.safetensors"));
    }
    return absl::DataLossError(absl::StrCat(dir, ": adapter_model.safetensors is missing"));
  }
  ASSIGN_OR_RETURN(const SafetensorsIndex index, ParseSafetensorsHeader(files, path));
  if (index.tensors.empty()) return absl::DataLossError(absl::StrCat(path, ": holds no tensors"));

  const Targets modules = AllModules(base);
  Sorted sorted;
  for (const Tensor& tensor : index.tensors) RETURN_IF_ERROR(SortTensor(index, tensor, modules, &sorted));
  RETURN_IF_ERROR(CheckPairs(index, targets, sorted.pairs));
  std::vector<ImageSlot> slots = PlanSlots(sorted, targets);
  RETURN_IF_ERROR(CheckFitsPool(path, slots, options));
  for (const Table& table : sorted.tables) {
    RETURN_IF_ERROR(
        CheckEqualsBaseTable(files, path, table.tensor->first, table.tensor->second, table.site, options.base_tables));
  }
  return ReadImage(index, sorted, std::move(slots), files, options);
}

}  // namespace lorad
