#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "model/base/dtype.h"
#include "model/sites.h"

namespace lorad {

// The base's own embedding or head as its checkpoint stores it, [rows, columns] = [vocabulary, hidden], row-major, in
// host memory for as long as the base lives.
struct BaseTable {
  DType dtype = DType::kF32;  // f32, bf16 or f16
  int64_t rows = 0;
  int64_t columns = 0;
  const std::byte* data = nullptr;
};

// Gives the table of kEmbedTokens or kLmHead (of a tied head: the embedding). PEFT saves a copy of these tables beside
// LoRA that targets them, and loading it there overwrites the base; here a copy that equals the base is dropped, and
// any other is refused. Called on loader threads.
using BaseTables = std::function<absl::StatusOr<BaseTable>(Site site)>;

}  // namespace lorad
