#include "adapters/merge.h"

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "adapters/config_text.h"
#include "adapters/merged_tensor.h"
#include "model/base/file_source.h"
#include "model/base/new_folder.h"
#include "model/base/status_macros.h"
#include "model/safetensors_checkpoint.h"
#include "model/safetensors_writer.h"

namespace lorad {
namespace {

constexpr int64_t kShardBytes = int64_t{5} * 1000 * 1000 * 1000;  // as transformers cuts them
constexpr int64_t kMaxConfigBytes = 16 << 20;

// One tensor of the output: the base's, or made of it.
struct Source {
  StoredTensor stored;
  const ImageSlot* slot = nullptr;  // nullptr: as it is
  bool bias = false;                // of the slot's module, not its weight

  BaseTable table() const {
    return {.dtype = stored.dtype,
            .rows = stored.shape[0],
            .columns = stored.shape.size() > 1 ? stored.shape[1] : 1,
            .data = stored.data};
  }
};
using Sources = std::map<std::string, Source>;

absl::Status CheckMergeable(const AdapterImage& image) {
  if (image.num_labels > 0) {
    return absl::UnimplementedError("the adapter has a classifier head, which a causal checkpoint has no place for");
  }
  if (image.vocab_size > 0) {
    return absl::UnimplementedError(
        absl::StrCat("the adapter has a vocabulary of its own, of tokens: ", image.vocab_size,
                     "; merging it would resize the base's, which is not supported"));
  }
  if (image.kind == "lora" || image.kind == "dora") return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("adapter kind: ", image.kind, "; it is no change of weights alone and cannot be merged"));
}

std::string ModuleOf(const BaseShape& base, const ImageSlot& slot) {
  return absl::StrReplaceAll(base.Find(slot.site)->module_path, {{"{}", absl::StrCat(slot.layer)}});
}

// Embedding and head are one table, and the adapter touches one of them or each in its own way.
bool Unties(const BaseShape& base, const AdapterImage& image) {
  return base.tied_embeddings && std::any_of(image.slots.begin(), image.slots.end(), [](const ImageSlot& slot) {
           return slot.site == Site::kEmbedTokens || slot.site == Site::kLmHead;
         });
}

absl::Status PutSlot(const BaseShape& base, const ImageSlot& slot, Sources* sources) {
  const std::string module = ModuleOf(base, slot);
  if (slot.rank > 0 || slot.rows.present()) {
    const auto weight = sources->find(module + ".weight");
    // Of experts, a checkpoint has a matrix each, or one of all in the other order.
    if (weight == sources->end() || slot.experts > 1) {
      return absl::UnimplementedError(
          absl::StrCat(module, ": LoRA on parameters of experts; merging those is not supported"));
    }
    weight->second.slot = &slot;
  }
  const bool norm_bias = IsNorm(slot.site) && slot.rows.shape[0] > 1;
  if (!slot.bias.present() && !slot.delta_bias.present() && !norm_bias) return absl::OkStatus();
  const auto bias = sources->find(module + ".bias");
  if (bias == sources->end()) {
    return absl::FailedPreconditionError(absl::StrCat(
        module, ": the adapter adds a bias (lora_bias), and the base has none there; it cannot be merged"));
  }
  bias->second.slot = &slot;
  bias->second.bias = true;
  return absl::OkStatus();
}

absl::StatusOr<Sources> PlanSources(const std::string& model_dir, const BaseShape& base, const AdapterImage& image) {
  ASSIGN_OR_RETURN(Checkpoint checkpoint, OpenCausalCheckpoint(model_dir));
  Sources sources;
  for (auto& [name, tensor] : checkpoint) sources.emplace(name, Source{.stored = std::move(tensor)});
  if (Unties(base, image)) {
    const std::string embedding = base.Find(Site::kEmbedTokens)->module_path + ".weight";
    sources[base.Find(Site::kLmHead)->module_path + ".weight"] = sources.at(embedding);
  }
  for (const ImageSlot& slot : image.slots) RETURN_IF_ERROR(PutSlot(base, slot, &sources));
  return sources;
}

// Names of the tensors of each file, in order.
std::vector<std::vector<std::string>> CutIntoShards(const Sources& sources) {
  std::vector<std::vector<std::string>> shards(1);
  int64_t bytes = 0;
  for (const auto& [name, source] : sources) {
    if (!shards.back().empty() && bytes + source.stored.size_bytes > kShardBytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(name);
    bytes += source.stored.size_bytes;
  }
  return shards;
}

absl::StatusOr<std::vector<std::byte>> Merged(const Source& source) {
  const Site site = source.slot->site;
  if (IsNorm(site)) return MergedNorm(source.table(), *source.slot, source.bias ? 1 : 0);
  if (source.bias) return MergedBias(source.table(), *source.slot);
  return MergedWeight(source.table(), site == Site::kEmbedTokens, *source.slot);
}

class Writer final {
 public:
  Writer(const Sources& sources, const MergeProgressFn& progress, const NewFolder& folder)
      : sources_(sources), progress_(progress), folder_(folder) {}

  absl::Status Write() {
    const std::vector<std::vector<std::string>> shards = CutIntoShards(sources_);
    if (shards.size() == 1) return WriteShard("model.safetensors", shards[0]);
    nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
    for (size_t i = 0; i < shards.size(); ++i) {
      const std::string file = absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
      RETURN_IF_ERROR(WriteShard(file, shards[i]));
      for (const std::string& name : shards[i]) weight_map[name] = file;
    }
    int64_t bytes = 0;
    for (const auto& [name, source] : sources_) bytes += source.stored.size_bytes;
    const nlohmann::ordered_json index = {{"metadata", {{"total_size", bytes}}}, {"weight_map", weight_map}};
    return folder_.Write("model.safetensors.index.json", ConfigText(index));
  }

 private:
  absl::Status WriteShard(const std::string& file, const std::vector<std::string>& names) {
    std::vector<TensorToWrite> tensors;
    for (const std::string& name : names) {
      const StoredTensor& stored = sources_.at(name).stored;
      tensors.push_back({.name = name, .dtype = stored.dtype, .shape = stored.shape});
    }
    return WriteSafetensors(folder_.PathOf(file), tensors, {{"format", "pt"}},
                            [this](const TensorToWrite& tensor) { return Make(tensor.name); });
  }

  absl::StatusOr<absl::Span<const std::byte>> Make(const std::string& name) {
    if (!progress_(done_++, static_cast<int64_t>(sources_.size())))
      return absl::CancelledError("merging was cancelled");
    const Source& source = sources_.at(name);
    if (source.slot == nullptr) {
      return absl::MakeConstSpan(source.stored.data, static_cast<size_t>(source.stored.size_bytes));
    }
    absl::StatusOr<std::vector<std::byte>> merged = Merged(source);
    if (!merged.ok()) {
      return absl::Status(merged.status().code(), absl::StrCat(name, ": ", std::string(merged.status().message())));
    }
    made_ = *std::move(merged);
    return absl::MakeConstSpan(made_);
  }

  const Sources& sources_;
  const MergeProgressFn& progress_;
  const NewFolder& folder_;
  int64_t done_ = 0;
  std::vector<std::byte> made_;
};

absl::Status WriteConfig(const std::string& model_dir, bool untied, const NewFolder& folder) {
  const std::unique_ptr<FileSource> files = LocalFiles();
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(*files, model_dir + "/config.json", kMaxConfigBytes));
  if (!untied) return folder.Write("config.json", text);
  nlohmann::ordered_json config = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::DataLossError(absl::StrCat(model_dir, "/config.json: not valid JSON"));
  config["tie_word_embeddings"] = false;
  return folder.Write("config.json", ConfigText(config));
}

}  // namespace

absl::Status WriteMerged(const std::string& model_dir, const BaseShape& base, const AdapterImage& image,
                         const std::string& output_dir, const MergeProgressFn& progress) {
  RETURN_IF_ERROR(CheckMergeable(image));
  ASSIGN_OR_RETURN(const Sources sources, PlanSources(model_dir, base, image));
  ASSIGN_OR_RETURN(const std::unique_ptr<NewFolder> folder, NewFolder::Create(output_dir));
  RETURN_IF_ERROR(WriteConfig(model_dir, Unties(base, image), *folder));
  RETURN_IF_ERROR(folder->CopyCompanions(model_dir, {"config.json"}));
  RETURN_IF_ERROR(Writer(sources, progress, *folder).Write());
  const auto total = static_cast<int64_t>(sources.size());
  if (!progress(total, total)) return absl::CancelledError("merging was cancelled");
  return folder->Publish();
}

}  // namespace lorad
