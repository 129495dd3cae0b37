#pragma once

#include "absl/status/statusor.h"
#include "model/ops/cuda/fast_attention.h"
#include "model/ops/paged_attention.h"

namespace lorad::cuda {

// Queues the fast form, where there is one for these rows that CheckFastAttention found to agree with ours. False:
// there is none.
absl::StatusOr<bool> AttendFast(const PagedAttentionArgs& args, const AttentionRows<__nv_bfloat16>& rows);

}  // namespace lorad::cuda
