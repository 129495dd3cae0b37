#pragma once

#include "absl/status/status.h"
#include "model/config.h"
#include "model/forward_batch.h"
#include "model/kv/kv_layout.h"

namespace lorad {

// Whether the tensors of a batch agree with each other and with the model, and the cache is the model's. Errors:
// Internal, with the sizes: a batch is made by us.
absl::Status CheckBatch(const ForwardBatch& batch, const ModelConfig& config, const KvLayout& ours,
                        const KvLayout& theirs);

}  // namespace lorad
