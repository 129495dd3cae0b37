#include "adapters/kinds/lora.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/kinds/adapter_file.h"
#include "adapters/kinds/block_diagonal.h"
#include "adapters/kinds/classifier.h"
#include "adapters/kinds/from_base.h"
#include "adapters/kinds/own_vocabulary.h"
#include "adapters/kinds/peft_config.h"
#include "adapters/kinds/peft_experts.h"
#include "adapters/kinds/peft_targets.h"
#include "adapters/kinds/peft_tensors.h"
#include "adapters/kinds/replacements.h"
#include "adapters/kinds/tensor_reader.h"
#include "model/base/sha256.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

using Targets = std::map<std::string, TargetedModule>;

// Where the image keeps each of a module's tensors.
struct SlotPart {
  const FileTensor* ModuleTensors::*from;
  HostTensor ImageSlot::*to;
  bool vector;
};
constexpr SlotPart kSlotParts[] = {
    {&ModuleTensors::a, &ImageSlot::a, false},
    {&ModuleTensors::b, &ImageSlot::b, false},
    {&ModuleTensors::magnitude, &ImageSlot::magnitude, true},
    {&ModuleTensors::delta_bias, &ImageSlot::delta_bias, true},
    {&ModuleTensors::bias, &ImageSlot::bias, true},
};

// The bias of a norm comes with its weight, as a replacement.
const FileTensor* FileTensorOf(const ModuleTensors& module, const SlotPart& part, Site site) {
  return IsNorm(site) ? nullptr : module.*part.from;
}

// A table or norm that is the base's own.
bool ChangesNothing(const ImageSlot& slot) { return slot.rank == 0 && !slot.bias.present() && !slot.rows.present(); }

// What is applied, whatever the file's prefixes and the config's way of saying it.
void AddToDigest(const std::string& path, const ImageSlot& slot, Sha256* digest) {
  for (const SlotPart& part : kSlotParts) {
    const HostTensor& tensor = slot.*part.to;
    if (!tensor.present()) continue;
    digest->UpdateInt(static_cast<int64_t>(path.size()));
    digest->Update(path);
    digest->UpdateInt(&part - kSlotParts);
    digest->UpdateInt(static_cast<int64_t>(tensor.dtype));
    for (const int64_t size : tensor.shape) digest->UpdateInt(size);
    digest->Update(tensor.data(), static_cast<size_t>(tensor.elements() * SizeBytes(tensor.dtype)));
  }
  if (slot.rows.present()) {
    digest->Update(path);
    digest->UpdateInt(static_cast<int64_t>(slot.rows.dtype));
    for (const int64_t size : slot.rows.shape) digest->UpdateInt(size);
    for (const int32_t id : slot.row_ids) digest->UpdateInt(id);
    digest->Update(slot.rows.data(), static_cast<size_t>(slot.rows.elements() * SizeBytes(slot.rows.dtype)));
  }
  digest->Update(&slot.scale, sizeof(slot.scale));
}

// What the modules change, with places and shapes; no bytes yet.
std::vector<ImageSlot> PlanSlots(const PeftTensors& tensors, const Replacements& replacements, const Targets& modules,
                                 const Targets& targets, PeftInit init) {
  std::vector<ImageSlot> slots;
  for (const auto& [path, module] : tensors.modules) {
    ImageSlot slot;
    slot.site = modules.at(path).shape->site;
    slot.layer = modules.at(path).layer;
    slot.experts = static_cast<int32_t>(modules.at(path).shape->experts);
    if (module.has_pair()) {
      slot.rank = static_cast<int32_t>(targets.at(path).rank);
      slot.scale = targets.at(path).scale;
    }
    for (const SlotPart& part : kSlotParts) {
      const FileTensor* tensor = FileTensorOf(module, part, slot.site);
      if (tensor == nullptr) continue;
      HostTensor& host = slot.*part.to;
      host.dtype = tensor->second.dtype;
      host.shape = tensor->second.shape;
      if (part.vector) host.shape = {host.elements()};
    }
    if (slot.rank > 0) {
      slot.a.shape[1] *= targets.at(path).a_blocks;
      slot.b.shape[1] *= targets.at(path).b_blocks;
      if (init != PeftInit::kKeepsBase) {  // the initial pair joins it
        slot.a.shape[0] *= 2;
        slot.b.shape[1] *= 2;
      }
    }
    if (const auto replaced = replacements.find(path); replaced != replacements.end()) {
      slot.rows.shape = {replaced->second.rows, replaced->second.width};
      slot.row_ids = replaced->second.ids;
      slot.whole_module = replaced->second.whole_module;
    }
    slots.push_back(std::move(slot));
  }
  return slots;
}

// `slots` are those of tensors.modules, in that order.
absl::Status ReadReplacements(const SafetensorsIndex& index, const PeftTensors& tensors,
                              const Replacements& replacements, const Targets& modules, FileSource& files,
                              const AdapterReadOptions& options, std::vector<ImageSlot>* slots) {
  std::map<const FileTensor*, HostTensor> read;  // of tied tables: once
  size_t i = 0;
  for (const auto& [path, module] : tensors.modules) {
    ImageSlot& slot = (*slots)[i++];
    const auto found = replacements.find(path);
    if (found == replacements.end()) continue;
    const Replacement& replacement = found->second;
    if (slot.magnitude.present()) {
      return absl::UnimplementedError(
          absl::StrCat(About(index, *replacement.weight), "differs from the base, and DoRA is put on it"));
    }
    const auto known = read.find(replacement.weight);
    if (known != read.end() && replacement.weight != nullptr) {
      slot.rows = known->second;
      continue;
    }
    ASSIGN_OR_RETURN(slot.rows, ReadReplacement(files, index, replacement, modules.at(path), options.base_tables));
    const FileTensor& named = replacement.weight != nullptr ? *replacement.weight : *replacement.bias;
    RETURN_IF_ERROR(CheckFinite(About(index, named), slot.rows, options.pool_dtype));
    read[replacement.weight] = slot.rows;
  }
  return absl::OkStatus();
}

absl::StatusOr<AdapterImage> ReadImage(const SafetensorsIndex& index, const PeftTensors& tensors,
                                       const Replacements& replacements, const BaseShape& base, const Targets& modules,
                                       const PeftLoraConfig& config, std::vector<ImageSlot> slots, FileSource& files,
                                       const AdapterReadOptions& options) {
  TensorReader reader(files, index.path);
  for (const auto& [path, module] : tensors.modules) {
    for (const SlotPart& part : kSlotParts) {
      if (const FileTensor* tensor = FileTensorOf(module, part, modules.at(path).shape->site)) {
        reader.Want(tensor->second);
      }
    }
  }
  RETURN_IF_ERROR(reader.Read());
  RETURN_IF_ERROR(ReadReplacements(index, tensors, replacements, modules, files, options, &slots));

  AdapterImage image;
  image.kind = config.invocation_tokens.empty() ? "lora" : "alora";
  image.invocation_tokens = config.invocation_tokens;
  image.rank_min = kMaxStoredRank;
  Sha256 digest;
  digest.Update("lora");
  size_t i = 0;
  for (const auto& [path, module] : tensors.modules) {
    ImageSlot& slot = slots[i++];
    for (const SlotPart& part : kSlotParts) {
      const FileTensor* tensor = FileTensorOf(module, part, slot.site);
      if (tensor == nullptr) continue;
      HostTensor& host = slot.*part.to;
      host = reader.Get(tensor->second);
      if (part.vector) host.shape = {host.elements()};
      RETURN_IF_ERROR(CheckFinite(About(index, *tensor), host, part.vector ? DType::kF32 : options.pool_dtype));
    }
    const TargetedModule& target = modules.at(path);
    if (target.a_blocks > 1) slot.a = WithItsZeros(slot.a, target.a_blocks);
    if (target.b_blocks > 1) slot.b = WithItsZeros(slot.b, target.b_blocks);
    if (slot.experts > 1) slot.b = ExpertsOneAfterTheOther(slot.b, slot.experts);
    RETURN_IF_ERROR(AddInitialPair(absl::StrCat(index.path, ": ", path), config.init, module.table != nullptr,
                                   base.tied_embeddings, options, &slot));
    RETURN_IF_ERROR(AddFromBase(absl::StrCat(index.path, ": ", path), options, &slot));
    if (!ChangesNothing(slot)) AddToDigest(path, slot, &digest);
    if (slot.magnitude.present()) image.kind = "dora";
    if (slot.rank == 0) continue;
    image.rank_min = std::min(image.rank_min, slot.rank);
    image.rank_max = std::max(image.rank_max, slot.rank);
  }
  std::erase_if(slots, &ChangesNothing);
  ASSIGN_OR_RETURN(image.vocab_size, OwnVocabulary(index.path, slots, base));
  image.slots = std::move(slots);
  if (!image.invocation_tokens.empty()) digest.Update("invocation");
  for (const int32_t token : image.invocation_tokens) digest.UpdateInt(token);
  image.digest = digest.HexDigest();
  std::sort(image.slots.begin(), image.slots.end(), [](const ImageSlot& x, const ImageSlot& y) {
    return std::pair(x.site, x.layer) < std::pair(y.site, y.layer);
  });
  for (const ImageSlot& slot : image.slots) {
    const std::string target(Name(slot.site));
    if (slot.rank > 0 && (image.targets.empty() || image.targets.back() != target)) image.targets.push_back(target);
  }
  return image;
}

// PEFT knows aLoRA on linears alone; what else the file has, it keeps active everywhere.
absl::Status CheckInvocation(const std::string& path, const AdapterImage& image, const BaseShape& base) {
  const auto refuse = [&](const char* what) {
    return absl::UnimplementedError(absl::StrCat(path, ": alora_invocation_tokens together with ", what));
  };
  if (image.invocation_tokens.empty()) return absl::OkStatus();
  for (const int32_t token : image.invocation_tokens) {
    if (token >= base.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter_config.json: alora_invocation_tokens: ", token, "; limit: 0..", base.vocab_size - 1));
    }
  }
  if (image.num_labels > 0) return refuse("a classifier head");
  for (const ImageSlot& slot : image.slots) {
    if (slot.site == Site::kEmbedTokens) return refuse("an adapted embedding");
    if (slot.rows.present()) return refuse("a table unlike the base's");
  }
  return absl::OkStatus();
}

// MoE-PEFT writes few keys, and never this one; PEFT all of its own.
bool IsWrittenByPeft(const AdapterConfigJson& json) { return json.contains("inference_mode"); }

bool HasMagnitudes(const SafetensorsIndex& index) {
  return std::any_of(index.tensors.begin(), index.tensors.end(), [](const FileTensor& tensor) {
    return tensor.first.find("lora_magnitude_vector") != std::string::npos;
  });
}

}  // namespace

absl::StatusOr<AdapterImage> ReadLora(const std::string& dir, const AdapterConfigJson& json, const BaseShape& base,
                                      FileSource& files, const AdapterReadOptions& options) {
  ASSIGN_OR_RETURN(PeftLoraConfig config, ParsePeftLoraConfig(json, base.model_type));
  ASSIGN_OR_RETURN(const Targets targets, SelectTargets(config, base));

  ASSIGN_OR_RETURN(SafetensorsIndex index, FindAdapterTensors(files, dir));
  ASSIGN_OR_RETURN(const std::optional<FileTensor> classifier, TakeClassifier(base, &index, &config));
  const bool is_plain_after_all = config.use_dora && !HasMagnitudes(index) && !IsWrittenByPeft(json);
  if (is_plain_after_all) config.use_dora = false;

  ASSIGN_OR_RETURN(PeftTensors tensors, SortPeftTensors(index, config, base, targets));
  const Targets modules = AllModulesAnd(targets, base);
  ASSIGN_OR_RETURN(const Replacements replacements,
                   FindReplacements(files, index, tensors, config, base, modules, options.base_tables));
  for (const auto& [path, replacement] : replacements) tensors.modules[path];  // a tied head may have no tensor
  std::vector<ImageSlot> slots = PlanSlots(tensors, replacements, modules, targets, config.init);
  RETURN_IF_ERROR(CheckFitsPool(index.path, slots, options));
  ASSIGN_OR_RETURN(AdapterImage image,
                   ReadImage(index, tensors, replacements, base, modules, config, std::move(slots), files, options));
  if (is_plain_after_all) image.warnings.push_back(kDoraWithoutMagnitudes);
  if (classifier.has_value()) {
    RETURN_IF_ERROR(AddClassifier(index.path, *classifier, base, files, options, &image));
  }
  RETURN_IF_ERROR(CheckInvocation(index.path, image, base));
  return image;
}

}  // namespace lorad
