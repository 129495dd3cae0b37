#include "adapters/checkpoint_tables.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "adapters/float_convert.h"
#include "model/base/status_macros.h"
#include "model/safetensors_checkpoint.h"

namespace lorad {
namespace {

BaseTable Quantized(Quantization quantization, const BaseTable& stored) {
  const auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(stored.rows * stored.columns));
  ToF32(stored.dtype, stored.data, stored.rows * stored.columns, values->data());
  RoundToQuantized(quantization, stored.rows, stored.columns, values->data());
  return {.dtype = DType::kF32,
          .rows = stored.rows,
          .columns = stored.columns,
          .data = reinterpret_cast<const std::byte*>(values->data()),
          .owner = values};
}

}  // namespace

absl::StatusOr<BaseTables> OpenBaseTables(const std::string& model_dir, const BaseShape& base,
                                          Quantization quantization) {
  ASSIGN_OR_RETURN(Checkpoint opened, OpenCausalCheckpoint(model_dir));
  const auto checkpoint = std::make_shared<const Checkpoint>(std::move(opened));
  return BaseTables([checkpoint, base, quantization](const BaseTableName& name) -> absl::StatusOr<BaseTable> {
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
    BaseTable stored = {.dtype = tensor.dtype,
                        .rows = tensor.shape[0],
                        .columns = is_vector ? 1 : tensor.shape[1],
                        .data = tensor.data};
    if (name.row_count > 0) {
      if (name.first_row < 0 || name.first_row > stored.rows - name.row_count) {
        return absl::NotFoundError(absl::StrCat("the base's tensor ", tensor_name, ": rows: ", name.first_row, " and ",
                                                name.row_count, " more; limit: ", stored.rows));
      }
      stored.data += name.first_row * stored.columns * SizeBytes(stored.dtype);
      stored.rows = name.row_count;
    }
    const bool quantized =
        quantization != Quantization::kNone && IsQuantized(name.site) && !is_vector && !name.as_stored;
    return quantized ? Quantized(quantization, stored) : std::move(stored);
  });
}

}  // namespace lorad
