#include "adapters/ops/cuda/long_segment_kernels.cuh"

#include "model/ops/cuda/launch.h"

namespace lorad::cuda {

cudaError_t LaunchLongShrink(const SegmentedWork& work, const SegmentedSizes& sizes, const ShrinkInput<Bf16>& input,
                             cudaStream_t stream) {
  return Launch(&LongShrinkKernel, Grid(work.num_long_tiles, sizes.long_rank_blocks * work.h_slices),
                kLongShrinkThreads, stream, work, input);
}

cudaError_t LaunchLongExpand(const SegmentedWork& work, const SegmentedSizes& sizes, const Rows<Bf16>& y,
                             cudaStream_t stream) {
  return Launch(&LongExpandKernel, Grid(work.num_long_tiles, sizes.long_column_blocks), kLongExpandThreads, stream,
                work, y);
}

}  // namespace lorad::cuda
