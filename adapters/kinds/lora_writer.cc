#include "adapters/kinds/lora_writer.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/base/status_macros.h"
#include "model/safetensors_writer.h"

namespace lorad {
namespace {

using Slots = std::map<std::string, const ImageSlot*>;  // by the module's path

Slots SlotsByPath(const AdapterImage& image, const BaseShape& base) {
  Slots slots;
  for (const ImageSlot& slot : image.slots) {
    slots[absl::StrReplaceAll(base.Find(slot.site)->module_path, {{"{}", absl::StrCat(slot.layer)}})] = &slot;
  }
  return slots;
}

void AddTensors(const std::string& path, const ImageSlot& slot, std::vector<TensorToWrite>* tensors) {
  const auto add = [&](const char* ending, const HostTensor& tensor) {
    if (!tensor.present()) return;
    const auto bytes = static_cast<size_t>(tensor.elements() * SizeBytes(tensor.dtype));
    tensors->push_back({.name = absl::StrCat("base_model.model.", path, ending),
                        .dtype = tensor.dtype,
                        .shape = tensor.shape,
                        .bytes = {tensor.data(), bytes}});
  };
  const bool embedding = slot.site == Site::kEmbedTokens;
  add(embedding ? ".lora_embedding_A" : ".lora_A.weight", slot.a);
  add(embedding ? ".lora_embedding_B" : ".lora_B.weight", slot.b);
  add(".lora_magnitude_vector", slot.magnitude);
  add(".lora_B.bias", slot.delta_bias);
  add(slot.rank > 0 ? ".base_layer.bias" : ".bias", slot.bias);
}

// The value that most modules have, so that patterns name the fewest.
template <typename T>
T MostCommon(const std::map<std::string, T>& values) {
  std::map<T, int64_t> counts;
  for (const auto& [path, value] : values) ++counts[value];
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == counts.end() ? T(1) : most->first;
}

template <typename T>
nlohmann::ordered_json PatternOf(const std::map<std::string, T>& values, T common) {
  nlohmann::ordered_json pattern = nlohmann::ordered_json::object();
  for (const auto& [path, value] : values) {
    if (value != common) pattern[path] = value;
  }
  return pattern;
}

nlohmann::ordered_json ConfigOf(const Slots& slots) {
  std::map<std::string, int64_t> ranks;
  std::map<std::string, double> alphas;
  std::vector<std::string> targets;
  bool dora = false, lora_bias = false, bias = false, untargeted_bias = false;
  for (const auto& [path, slot] : slots) {
    bias |= slot->bias.present();
    untargeted_bias |= slot->bias.present() && slot->rank == 0;
    if (slot->rank == 0) continue;
    targets.push_back(path);
    ranks[path] = slot->rank;
    alphas[path] = static_cast<double>(slot->scale) * slot->rank;  // exact, and divided by the rank exact again
    dora |= slot->magnitude.present();
    lora_bias |= slot->delta_bias.present();
  }
  const int64_t rank = MostCommon(ranks);
  const double alpha = MostCommon(alphas);
  return {{"alpha_pattern", PatternOf(alphas, alpha)},
          {"base_model_name_or_path", nullptr},
          {"bias", untargeted_bias ? "all"
                   : bias          ? "lora_only"
                                   : "none"},
          {"fan_in_fan_out", false},
          {"inference_mode", true},
          {"init_lora_weights", true},
          {"lora_alpha", alpha},
          {"lora_bias", lora_bias},
          {"lora_dropout", 0.0},
          {"peft_type", "LORA"},
          {"r", rank},
          {"rank_pattern", PatternOf(ranks, rank)},
          {"target_modules", targets},
          {"task_type", "CAUSAL_LM"},
          {"use_dora", dora},
          {"use_rslora", false}};
}

}  // namespace

absl::Status WriteLora(const AdapterImage& image, const BaseShape& base, const NewFolder& folder) {
  if (image.kind != "lora" && image.kind != "dora" && image.kind != "alora") {
    return absl::UnimplementedError(absl::StrCat("adapter kind: ", image.kind, "; PEFT's LoRA folders cannot hold it"));
  }
  for (const ImageSlot& slot : image.slots) {
    if (!slot.rows.present() && slot.experts == 1 && base.Find(slot.site)->parameter.empty()) continue;
    return absl::UnimplementedError(absl::StrCat(
        std::string(Name(slot.site)), ": writing replaced weights or LoRA on bare parameters is not supported"));
  }
  const Slots slots = SlotsByPath(image, base);
  std::vector<TensorToWrite> tensors;
  for (const auto& [path, slot] : slots) AddTensors(path, *slot, &tensors);
  RETURN_IF_ERROR(WriteSafetensors(folder.PathOf("adapter_model.safetensors"), tensors, {{"format", "pt"}}));
  nlohmann::ordered_json config = ConfigOf(slots);
  if (!image.invocation_tokens.empty()) config["alora_invocation_tokens"] = image.invocation_tokens;
  return folder.Write("adapter_config.json", config.dump(2) + "\n");
}

}  // namespace lorad
