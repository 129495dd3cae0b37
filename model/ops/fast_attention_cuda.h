#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "model/ops/cuda/fast_attention.h"
#include "model/ops/paged_attention.h"

namespace lorad::cuda {

// Queues the fast form, where there is one for these rows and TrustFastAttention said so of their head size. False:
// there is none.
absl::StatusOr<bool> AttendFast(const PagedAttentionArgs& args, const AttentionRows<__nv_bfloat16>& rows);
// From now on for heads of these sizes, and no others. CheckFastAttention's and LeaveOutFastAttention's.
void TrustFastAttention(std::vector<int64_t> head_dims);

}  // namespace lorad::cuda
