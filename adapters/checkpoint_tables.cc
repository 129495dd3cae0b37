#include "adapters/checkpoint_tables.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "model/base/status_macros.h"
#include "model/safetensors_checkpoint.h"

namespace lorad {

absl::StatusOr<BaseTables> OpenBaseTables(const std::string& model_dir, const BaseShape& base) {
  ASSIGN_OR_RETURN(Checkpoint opened, OpenCausalCheckpoint(model_dir));
  const auto checkpoint = std::make_shared<const Checkpoint>(std::move(opened));
  return BaseTables([checkpoint, base](const BaseTableName& name) -> absl::StatusOr<BaseTable> {
    const bool tied_head = name.site == Site::kLmHead && base.tied_embeddings;
    const SiteShape* shape = base.Find(tied_head ? Site::kEmbedTokens : name.site);
    if (shape == nullptr) return absl::NotFoundError("the base has no such module");
    const std::string tensor_name = absl::StrCat(
        absl::StrReplaceAll(shape->module_path, {{"{}", absl::StrCat(name.layer)}}), name.bias ? ".bias" : ".weight");
    const auto found = checkpoint->find(tensor_name);
    if (found == checkpoint->end()) {
      return absl::NotFoundError(absl::StrCat("the base's checkpoint has no tensor ", tensor_name));
    }
    const StoredTensor& tensor = found->second;
    const bool is_vector = name.bias || IsNorm(name.site);
    if (tensor.shape.size() != (is_vector ? 1u : 2u)) {
      return absl::NotFoundError(
          absl::StrCat("the base's tensor ", tensor_name, " has dimensions: ", tensor.shape.size()));
    }
    return BaseTable{.dtype = tensor.dtype,
                     .rows = tensor.shape[0],
                     .columns = is_vector ? 1 : tensor.shape[1],
                     .data = tensor.data};
  });
}

}  // namespace lorad
