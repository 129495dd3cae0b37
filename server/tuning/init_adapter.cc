#include "server/tuning/init_adapter.h"

#include <cmath>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/peft_targets.h"
#include "adapters/names.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

std::string FolderOf(const std::string& name_or_path, const Backend& backend) {
  for (const auto& info : backend.engine->snapshot()->adapters->all) {
    if (info->name == name_or_path) return info->path;
  }
  return name_or_path;
}

absl::StatusOr<v1::AdapterSpec> SpecOf(const AdapterImage& image, const BaseShape& base) {
  std::map<std::pair<Site, int32_t>, std::string> paths;
  for (const auto& [path, module] : AllModules(base)) paths[{module.shape->site, module.layer}] = path;
  v1::AdapterSpec spec;
  for (const ImageSlot& slot : image.slots) {
    const auto path = paths.find({slot.site, slot.layer});
    if (path == paths.end() || slot.rank == 0 || slot.experts != 1 || slot.bias.present() ||
        slot.delta_bias.present() || slot.rows.present() || slot.router.present()) {
      return absl::UnimplementedError(absl::StrCat(
          "init_adapter: kind: ", image.kind, "; limit: lora and dora without biases, replaced weights or ",
          "experts; ", path == paths.end() ? "a module that is not trained" : path->second));
    }
    const auto rank = static_cast<uint32_t>(slot.rank);
    const float alpha = slot.scale * static_cast<float>(slot.rank);
    if (spec.targets_size() == 0) {
      spec.set_rank(rank);
      spec.set_alpha(alpha);
      spec.set_kind(slot.magnitude.present() ? "dora" : "lora");
    }
    spec.add_targets(path->second);
    const std::string expression = absl::StrReplaceAll(path->second, {{".", "\\."}});
    if (rank != spec.rank()) (*spec.mutable_rank_pattern())[expression] = rank;
    if (alpha != spec.alpha()) (*spec.mutable_alpha_pattern())[expression] = alpha;
  }
  if (spec.targets_size() > 0) return spec;
  return absl::UnimplementedError(absl::StrCat("init_adapter: kind: ", image.kind, "; has no weights to go on from"));
}

}  // namespace

absl::StatusOr<InitAdapter> ReadInitAdapter(const std::string& name_or_path, const Backend& backend,
                                            const BaseShape& base, const BaseTables& base_tables) {
  ASSIGN_OR_RETURN(const std::string folder, JoinAdapterPath(FolderOf(name_or_path, backend), backend.adapter_roots));
  const std::unique_ptr<FileSource> files =
      backend.adapter_roots.empty() ? LocalFiles() : RootedFiles(backend.adapter_roots[0]);
  absl::StatusOr<AdapterImage> image = ReadAdapter(folder, base, *files, {.base_tables = base_tables});
  if (!image.ok()) {
    return absl::Status(image.status().code(), absl::StrCat("init_adapter: ", image.status().message()));
  }
  ASSIGN_OR_RETURN(v1::AdapterSpec spec, SpecOf(*image, base));
  return InitAdapter{*std::move(image), std::move(spec)};
}

}  // namespace lorad
