#include "tests/adapters/adapter_folder.h"

#include <filesystem>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "adapters/float_convert.h"
#include "model/base/check.h"
#include "model/safetensors_writer.h"

namespace lorad {

BaseShape TinyBase() {
  constexpr int64_t kHidden = 32, kMlp = 48, kVocab = 96;
  BaseShape base;
  base.model_type = "llama";
  base.num_layers = 2;
  base.vocab_size = kVocab;
  base.hidden_size = kHidden;
  const auto add = [&](Site site, const char* path, int64_t in, int64_t out, bool per_layer = true) {
    base.sites.push_back({site, path, in, out, per_layer, false});
  };
  add(Site::kQProj, "model.layers.{}.self_attn.q_proj", kHidden, kHidden);
  add(Site::kKProj, "model.layers.{}.self_attn.k_proj", kHidden, kHidden);
  add(Site::kVProj, "model.layers.{}.self_attn.v_proj", kHidden, kHidden);
  add(Site::kOProj, "model.layers.{}.self_attn.o_proj", kHidden, kHidden);
  add(Site::kGateProj, "model.layers.{}.mlp.gate_proj", kHidden, kMlp);
  add(Site::kUpProj, "model.layers.{}.mlp.up_proj", kHidden, kMlp);
  add(Site::kDownProj, "model.layers.{}.mlp.down_proj", kMlp, kHidden);
  add(Site::kEmbedTokens, "model.embed_tokens", kVocab, kHidden, false);
  add(Site::kLmHead, "lm_head", kHidden, kVocab, false);
  return base;
}

std::string WriteAdapter(const std::string& dir, const AdapterSpec& spec) {
  std::filesystem::create_directories(dir);
  const BaseShape base = TinyBase();
  std::mt19937 random(static_cast<unsigned>(spec.seed));
  std::normal_distribution<float> normal(0.0f, 0.2f);
  std::vector<std::vector<std::byte>> contents;
  std::vector<TensorToWrite> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    std::vector<float> values(static_cast<size_t>(shape[0] * shape[1]));
    for (float& value : values) value = normal(random);
    contents.emplace_back(values.size() * SizeBytes(spec.dtype));
    FromF32(values.data(), static_cast<int64_t>(values.size()), spec.dtype, contents.back().data());
    tensors.push_back(
        {.name = "base_model.model." + name, .dtype = spec.dtype, .shape = std::move(shape), .bytes = {}});
  };
  for (const SiteShape& shape : base.sites) {
    const std::string module(Name(shape.site));
    if (std::find(spec.modules.begin(), spec.modules.end(), module) == spec.modules.end()) continue;
    for (int64_t layer = 0; layer < (shape.per_layer ? base.num_layers : 1); ++layer) {
      const std::string path = absl::StrReplaceAll(shape.module_path, {{"{}", absl::StrCat(layer)}});
      const bool embedding = shape.site == Site::kEmbedTokens;
      add(path + (embedding ? ".lora_embedding_A" : ".lora_A.weight"), {spec.rank, shape.in_features});
      add(path + (embedding ? ".lora_embedding_B" : ".lora_B.weight"), {shape.out_features, spec.rank});
    }
  }
  for (size_t i = 0; i < tensors.size(); ++i) tensors[i].bytes = contents[i];
  LORAD_CHECK(WriteSafetensors(dir + "/adapter_model.safetensors", tensors, {}).ok());
  std::ofstream(dir + "/adapter_config.json")
      << "{\"peft_type\": \"LORA\", \"r\": " << spec.rank << ", \"lora_alpha\": " << spec.alpha
      << ", \"target_modules\": [\"" << absl::StrJoin(spec.modules, "\", \"") << "\"]" << spec.more_config << "}\n";
  return dir;
}

}  // namespace lorad
