#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "model/base/dtype.h"
#include "model/sites.h"

namespace lorad {

// A tensor of the base as its checkpoint stores it, or W' where the base is quantised (model/quantization.h):
// row-major, in host memory for as long as the base lives or `owner`, if there is one: a weight [rows, columns] (of an
// embedding [vocabulary, hidden]), or a bias or a norm's weight [rows, 1].
struct BaseTable {
  DType dtype = DType::kF32;  // f32, bf16 or f16
  int64_t rows = 0;
  int64_t columns = 0;
  const std::byte* data = nullptr;
  std::shared_ptr<const void> owner = nullptr;
};

struct BaseTableName {
  Site site = Site::kEmbedTokens;
  int32_t layer = -1;  // -1: not in a layer
  bool bias = false;
  bool as_stored = false;  // the checkpoint's weight, also where the base is quantised
  // Of its rows those from `first_row` on, so many; 0: all. What is made anew is made of them alone.
  int64_t first_row = 0;
  int64_t row_count = 0;
};

// Gives the base's tensors (of a tied head: the embedding). PEFT saves a copy of embedding and head beside LoRA that
// targets them, and loading it there overwrites the base; here rows that differ replace the base's for this adapter
// alone. DoRA's norms need the weights, replaced biases the biases. Called on loader threads. Errors: NotFound.
using BaseTables = std::function<absl::StatusOr<BaseTable>(const BaseTableName& name)>;

}  // namespace lorad
