#include "adapters/convert.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/types/span.h"
#include "adapters/config_text.h"
#include "adapters/kinds/adapter_file.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/recognise_lora.h"
#include "adapters/kinds/moe_names.h"
#include "adapters/kinds/tensor_reader.h"
#include "model/base/new_folder.h"
#include "model/base/status_macros.h"
#include "model/safetensors_writer.h"

namespace lorad {
namespace {

constexpr const char* kPrefix = "base_model.model.";

// As peft writes it: with its prefix, without the adapter's name.
std::string PeftName(const std::string& name) {
  if (name == kMoeClassifier) return absl::StrCat(kPrefix, "score.weight");
  std::string peft = absl::StrReplaceAll(name, {{".default.", "."}});
  if (absl::EndsWith(peft, ".default")) peft.resize(peft.size() - std::string(".default").size());
  if (absl::EndsWith(peft, ".lora_magnitude_vector.weight")) peft.resize(peft.size() - std::string(".weight").size());
  return absl::StartsWith(peft, kPrefix) ? peft : absl::StrCat(kPrefix, peft);
}

// The config as peft's LoraConfig reads it. MoE-PEFT leaves the type out, may give the modules as an object of
// booleans, and has keys of its own that matter to training alone.
AdapterConfigJson PeftConfig(AdapterConfigJson config, const SafetensorsIndex& index, std::vector<std::string>* notes) {
  config["peft_type"] = "LORA";
  for (const char* own : {"routing_strategy", "lora_init", "task_name"}) config.erase(own);
  if (const auto targets = config.find("target_modules"); targets != config.end() && targets->is_object()) {
    AdapterConfigJson names = AdapterConfigJson::array();
    for (const auto& [name, wanted] : targets->items()) {
      if (wanted.is_boolean() && wanted.get<bool>()) names.push_back(name);
    }
    config["target_modules"] = std::move(names);
  }
  const auto has = [&](const std::string& part) {
    return std::any_of(index.tensors.begin(), index.tensors.end(),
                       [&](const auto& tensor) { return absl::StrContains(tensor.first, part); });
  };
  if (config.value("use_dora", AdapterConfigJson(false)) == true && !has("lora_magnitude_vector")) {
    config["use_dora"] = false;
    notes->push_back("use_dora was dropped: the file has no magnitudes, and MoE-PEFT reads such a file as plain LoRA");
  }
  if (index.tensors.contains(kMoeClassifier)) {
    config["task_type"] = "SEQ_CLS";
    config["modules_to_save"] = {"score"};
    notes->push_back("MoE-PEFT's classifier became peft's module score");
  }
  return config;
}

// Reads one tensor after the other from `index`.
class TensorCopier final {
 public:
  TensorCopier(FileSource& files, const SafetensorsIndex& index) : files_(files), index_(index) {}

  absl::StatusOr<absl::Span<const std::byte>> Read(const std::string& name) {
    const SafetensorsEntry& entry = index_.tensors.find(name)->second;
    bytes_.resize(static_cast<size_t>(entry.size_bytes));
    RETURN_IF_ERROR(ReadTensor(files_, index_.path, entry, bytes_.data()));
    return absl::MakeConstSpan(bytes_);
  }

 private:
  FileSource& files_;
  const SafetensorsIndex& index_;
  std::vector<std::byte> bytes_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> ConvertAdapter(const std::string& from, const std::string& to,
                                                        FileSource& files) {
  std::vector<std::string> notes;
  ASSIGN_OR_RETURN(AdapterConfigJson config, ReadAdapterConfig(from, files));
  ASSIGN_OR_RETURN(const SafetensorsIndex index, FindAdapterTensors(files, from));
  const bool is_lora = IsLoraConfig(config);
  std::map<std::string, std::string> old_names;
  for (const auto& [name, entry] : index.tensors) {
    const auto [place, added] = old_names.emplace(is_lora ? PeftName(name) : name, name);
    if (added) continue;
    if (is_lora && absl::EndsWith(place->first, ".lora_magnitude_vector")) {  // PEFT reads the longer one, and so do we
      if (name.size() > place->second.size()) place->second = name;
      continue;
    }
    return absl::DataLossError(absl::StrCat(index.path, ": tensors ", Printable(place->second), " and ",
                                            Printable(name), " stand for the same"));
  }
  if (is_lora) config = PeftConfig(std::move(config), index, &notes);

  ASSIGN_OR_RETURN(const std::unique_ptr<NewFolder> folder, NewFolder::Create(to));
  std::vector<TensorToWrite> tensors;
  for (const auto& [new_name, old_name] : old_names) {
    const SafetensorsEntry& entry = index.tensors.find(old_name)->second;
    tensors.push_back({.name = new_name, .dtype = entry.dtype, .shape = entry.shape});
  }
  TensorCopier copier(files, index);
  RETURN_IF_ERROR(WriteSafetensors(folder->PathOf("adapter_model.safetensors"), tensors, {{"format", "pt"}},
                                   [&](const TensorToWrite& t) { return copier.Read(old_names.at(t.name)); }));
  RETURN_IF_ERROR(folder->Write("adapter_config.json", ConfigText(config)));
  RETURN_IF_ERROR(folder->CopyCompanions(from, {"adapter_config.json"}));
  RETURN_IF_ERROR(folder->Publish());
  return notes;
}

}  // namespace lorad
