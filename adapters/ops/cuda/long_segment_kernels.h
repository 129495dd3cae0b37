#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_bf16.h>

#include "adapters/ops/cuda/segmented_kernels.h"

// The low-rank updates of long segments (prefill), bf16 on tensor cores: 64 rows share what is read of A and B. What is
// added, and the arrays that say so, are those of segmented_kernels.h.
namespace lorad::cuda {

using Bf16 = __nv_bfloat16;  // as in device_code.cuh, which only kernels can include

// Segments of more rows: at 17 rows the kernels of short segments would read A and B three times.
inline constexpr int kMostShortRows = 16;
inline constexpr int kRanksPerLongBlock = 64;

// In how many slices the sums over x's width are made, by blocks of their own, so that a few hundred rows occupy a
// device. By the width alone: what a row's bits depend on.
inline int32_t SlicesOf(int64_t width) { return static_cast<int32_t>(std::clamp<int64_t>(width / 512, 1, 4)); }

cudaError_t LaunchLongShrink(const SegmentedWork& work, const SegmentedSizes& sizes, const ShrinkInput<Bf16>& input,
                             cudaStream_t stream);
cudaError_t LaunchLongExpand(const SegmentedWork& work, const SegmentedSizes& sizes, const Rows<Bf16>& y,
                             cudaStream_t stream);

}  // namespace lorad::cuda
