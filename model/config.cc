#include "model/config.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "model/arch/table.h"
#include "model/base/check.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

absl::StatusOr<Json> ReadJsonObject(FileSource& files, const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(files, path, kMaxConfigBytes));
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::DataLossError(absl::StrCat(path, ": not valid JSON; bytes: ", text.size()));
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  return json;
}

std::string KnownArchitectures() {
  return absl::StrJoin(Architectures(), ", ",
                       [](std::string* out, const Architecture& architecture) { out->append(architecture.name); });
}

const Architecture* PickArchitecture(ConfigFields& fields) {
  const std::vector<std::string> names = fields.Strings("architectures");
  if (names.size() != 1) {
    fields.Fail(
        absl::InvalidArgumentError(absl::StrCat(fields.Describe("architectures"), "; expected: a list of one name")));
    return nullptr;
  }
  const Architecture* architecture = FindArchitecture(names[0]);
  if (architecture == nullptr) {
    fields.Refuse("architectures", absl::StrCat("supported are ", KnownArchitectures()));
  } else if (fields.String("model_type", architecture->model_type) != architecture->model_type) {
    fields.Fail(absl::InvalidArgumentError(absl::StrCat(fields.Describe("model_type"), "; expected for ",
                                                        architecture->name, ": ", architecture->model_type)));
  }
  return architecture;
}

void AddIds(const std::vector<int32_t>& ids, std::vector<int32_t>* to) {
  for (const int32_t id : ids) {
    if (std::find(to->begin(), to->end(), id) == to->end()) to->push_back(id);
  }
}

void ReadGenerationConfig(ConfigFields& fields, ModelConfig* config) {
  AddIds(fields.Ids("eos_token_id", config->vocab_size), &config->eos_token_ids);
  ModelConfig::GenerationDefaults& defaults = config->generation;
  // The limits of a request, so that no default is refused when a request leaves it out.
  defaults.temperature = static_cast<float>(fields.Number("temperature", 0.0, 100.0, defaults.temperature));
  defaults.top_p = static_cast<float>(fields.Number("top_p", 1e-9, 1.0, defaults.top_p));
  defaults.top_k = fields.Int("top_k", 0, INT32_MAX, defaults.top_k);
  defaults.min_p = static_cast<float>(fields.Number("min_p", 0.0, 1.0, defaults.min_p));
  defaults.repetition_penalty =
      static_cast<float>(fields.Number("repetition_penalty", 0.01, 100.0, defaults.repetition_penalty));
}

const WeightRow* FindRow(const std::vector<WeightRow>& rows, WeightName name) {
  const auto row = std::find_if(rows.begin(), rows.end(), [&](const WeightRow& r) { return r.name == name; });
  return row == rows.end() ? nullptr : &*row;
}

// Router and experts: weights that are no modules of their own to transformers 5.
void AddRoutedSites(const std::vector<WeightRow>& rows, BaseShape* shape) {
  const WeightRow* router = FindRow(rows, WeightName::kRouter);
  if (router == nullptr) return;
  const auto add = [&](Site site, const WeightRow& row, int64_t out_features, int64_t experts, const char* parameter) {
    shape->sites.push_back({.site = site,
                            .module_path = row.module,
                            .in_features = row.shape[1],
                            .out_features = out_features,
                            .layers = row.layers,
                            .experts = experts,
                            .parameter = parameter});
  };
  add(Site::kRouter, *router, router->shape[0], 1, "weight");
  const WeightRow& gate = *FindRow(rows, WeightName::kExpertGate);
  const WeightRow& up = *FindRow(rows, WeightName::kExpertUp);
  const WeightRow& down = *FindRow(rows, WeightName::kExpertDown);
  add(Site::kExpertGateUp, gate, gate.shape[0] + up.shape[0], gate.experts, "gate_up_proj");
  add(Site::kExpertDown, down, down.shape[0], down.experts, "down_proj");
}

}  // namespace

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir) {
  const std::unique_ptr<FileSource> files = LocalFiles();
  const std::string path = absl::StrCat(model_dir, "/config.json");
  ASSIGN_OR_RETURN(const Json json, ReadJsonObject(*files, path));
  ConfigFields fields(json, path);
  const Architecture* architecture = PickArchitecture(fields);
  RETURN_IF_ERROR(fields.status());
  ModelConfig config;
  config.architecture = architecture->name;
  config.model_type = architecture->model_type;
  architecture->read_config(fields, &config);
  RETURN_IF_ERROR(fields.status());
  config.bos_token_id = static_cast<int32_t>(fields.Int("bos_token_id", -1, config.vocab_size - 1, -1));
  AddIds(fields.Ids("eos_token_id", config.vocab_size), &config.eos_token_ids);
  RETURN_IF_ERROR(fields.status());

  const std::string generation_path = absl::StrCat(model_dir, "/generation_config.json");
  if (!files->Exists(generation_path)) return config;
  ASSIGN_OR_RETURN(const Json generation, ReadJsonObject(*files, generation_path));
  ConfigFields generation_fields(generation, generation_path);
  ReadGenerationConfig(generation_fields, &config);
  RETURN_IF_ERROR(generation_fields.status());
  return config;
}

BaseShape BaseShapeOf(const ModelConfig& config) {
  struct SiteRow {
    Site site;
    WeightName weight;
    WeightName bias;
  };
  static constexpr SiteRow kSites[] = {
      {Site::kQProj, WeightName::kQProj, WeightName::kQBias},
      {Site::kKProj, WeightName::kKProj, WeightName::kKBias},
      {Site::kVProj, WeightName::kVProj, WeightName::kVBias},
      {Site::kOProj, WeightName::kOProj, WeightName::kOBias},
      {Site::kGateProj, WeightName::kGateProj, WeightName::kGateBias},
      {Site::kUpProj, WeightName::kUpProj, WeightName::kUpBias},
      {Site::kDownProj, WeightName::kDownProj, WeightName::kDownBias},
      {Site::kSharedGateProj, WeightName::kSharedGateProj, WeightName::kSharedGateProj},
      {Site::kSharedUpProj, WeightName::kSharedUpProj, WeightName::kSharedUpProj},
      {Site::kSharedDownProj, WeightName::kSharedDownProj, WeightName::kSharedDownProj},
      {Site::kSharedGate, WeightName::kSharedGate, WeightName::kSharedGate},
      {Site::kQkvProj, WeightName::kQkvProj, WeightName::kQkvProj},
      {Site::kGateUpProj, WeightName::kGateUpProj, WeightName::kGateUpProj},
      {Site::kEmbedTokens, WeightName::kEmbedTokens, WeightName::kEmbedTokens},
      {Site::kLmHead, WeightName::kLmHead, WeightName::kLmHeadBias},
      {Site::kProjectIn, WeightName::kProjectIn, WeightName::kProjectIn},
      {Site::kProjectOut, WeightName::kProjectOut, WeightName::kProjectOut},
      {Site::kInputNorm, WeightName::kInputNorm, WeightName::kInputNormBias},
      {Site::kPostAttentionNorm, WeightName::kPostAttentionNorm, WeightName::kPostAttentionNormBias},
      {Site::kAttentionOutNorm, WeightName::kAttentionOutNorm, WeightName::kAttentionOutNorm},
      {Site::kMlpOutNorm, WeightName::kMlpOutNorm, WeightName::kMlpOutNorm},
      {Site::kQNorm, WeightName::kQNorm, WeightName::kQNorm},
      {Site::kKNorm, WeightName::kKNorm, WeightName::kKNorm},
      {Site::kFinalNorm, WeightName::kFinalNorm, WeightName::kFinalNormBias},
  };
  const Architecture* architecture = FindArchitecture(config.architecture);
  LORAD_CHECK(architecture != nullptr);
  BaseShape shape{config.model_type,  config.num_layers,      config.vocab_size,
                  config.hidden_size, config.tied_embeddings, {}};
  const std::vector<WeightRow> rows = architecture->weights(config);
  const auto find = [&](WeightName name) { return FindRow(rows, name); };
  for (const SiteRow& site : kSites) {
    const WeightRow* row = find(site.weight);
    if (row == nullptr) continue;
    constexpr size_t kSuffixLength = sizeof(".weight") - 1;
    const bool is_embedding = site.site == Site::kEmbedTokens;
    shape.sites.push_back({site.site, row->stored_name.substr(0, row->stored_name.size() - kSuffixLength),
                           /*in_features=*/IsNorm(site.site) ? 1 : row->shape[is_embedding ? 0 : 1],
                           /*out_features=*/row->shape[is_embedding ? 1 : 0], row->per_layer(),
                           site.bias != site.weight && find(site.bias) != nullptr, row->layers});
  }
  AddRoutedSites(rows, &shape);
  return shape;
}

}  // namespace lorad
