#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/base_tables.h"
#include "adapters/kinds/peft_config.h"
#include "adapters/kinds/peft_tensors.h"
#include "model/base/file_source.h"
#include "model/safetensors.h"

namespace lorad {

// What of an embedding, a head or a norm a file replaces: places, no bytes.
struct Replacement {
  const FileTensor* weight = nullptr;  // of a norm: nullptr is the base's
  const FileTensor* tokens = nullptr;  // of a table: rows that take the place of some of `weight`'s
  const FileTensor* bias = nullptr;    // of a norm: the same
  int64_t width = 0;
  int64_t rows = 0;               // of a norm: 1, or 2 with a bias
  std::vector<int32_t> ids = {};  // [rows] tokens, ascending; empty: 0..rows-1
  bool whole_module = false;      // `weight` has all rows, also the base's
  // [rows], where `weight` has them; -1 - i: row i of `tokens`; empty: in the order of `weight`.
  std::vector<int64_t> in_weight = {};
};
using Replacements = std::map<std::string, Replacement>;  // by the module's path

// modules_to_save, trainable_token_indices, biases of norms, and saved copies of tables that are not the base's. Of a
// table, only rows that differ from the base's, rounded to the file's type (training may have widened or narrowed the
// base), replace anything; what equals the base is left out. Tables are read some rows at a time.
// Rows beyond the base's are the tokens of an enlarged vocabulary.
// Errors: Unimplemented for a table that nothing can be compared with, of a smaller vocabulary, or resized where it has
// LoRA or a bias; InvalidArgument for shapes and tokens that do not fit the base; DataLoss for tokens without rows.
absl::StatusOr<Replacements> FindReplacements(FileSource& files, const SafetensorsIndex& index,
                                              const PeftTensors& tensors, const PeftLoraConfig& config,
                                              const BaseShape& base,
                                              const std::map<std::string, TargetedModule>& modules,
                                              const BaseTables& base_tables);

// ImageSlot::rows of a replacement; for a norm in f32.
absl::StatusOr<HostTensor> ReadReplacement(FileSource& files, const SafetensorsIndex& index,
                                           const Replacement& replacement, const TargetedModule& module,
                                           const BaseTables& base_tables);

}  // namespace lorad
