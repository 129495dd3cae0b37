#include "adapters/checkpoint_tables.h"

#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/safetensors_checkpoint.h"

namespace lorad {

absl::StatusOr<BaseTables> OpenBaseTables(const std::string& model_dir, const BaseShape& base) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenCheckpoint(model_dir));
  auto tables = std::make_shared<std::map<Site, StoredTensor>>();
  for (const Site site : {Site::kEmbedTokens, Site::kLmHead}) {
    const SiteShape* shape = base.Find(site);
    if (shape == nullptr) continue;
    const auto found = checkpoint.find(absl::StrCat(shape->module_path, ".weight"));
    if (found != checkpoint.end() && found->second.shape.size() == 2) tables->emplace(site, found->second);
  }
  if (base.tied_embeddings && tables->contains(Site::kEmbedTokens)) {
    tables->insert_or_assign(Site::kLmHead, tables->at(Site::kEmbedTokens));
  }
  return BaseTables([tables](Site site) -> absl::StatusOr<BaseTable> {
    const auto found = tables->find(site);
    if (found == tables->end()) return absl::NotFoundError("the base's checkpoint has no such table");
    const StoredTensor& tensor = found->second;
    return BaseTable{.dtype = tensor.dtype, .rows = tensor.shape[0], .columns = tensor.shape[1], .data = tensor.data};
  });
}

}  // namespace lorad
