#include "adapters/ops/cuda/segmented_kernels.cuh"

#include "model/ops/cuda/launch.h"

namespace lorad::cuda {

template <typename T>
cudaError_t LaunchShrink(const SegmentedWork& work, const SegmentedSizes& sizes, const ShrinkInput<T>& input,
                         cudaStream_t stream) {
  if (input.width > kMostShrinkWidth) return cudaErrorInvalidValue;
  return Launch(&ShrinkKernel<T>, Grid(work.num_tiles, sizes.rank_blocks), kShrinkThreads, stream, work, input);
}

template <typename T>
cudaError_t LaunchWeighExperts(const SegmentedWork& work, const SegmentedSizes& sizes, const ShrinkInput<T>& input,
                               float* logits, cudaStream_t stream) {
  return Launch(&WeighExpertsKernel<T>, Grid(work.num_tiles, kRowsPerTile), kWeighWarps * kWarp, stream, work, input,
                logits, sizes.experts);
}

template <typename T>
cudaError_t LaunchGatherRanks(const SegmentedWork& work, const int32_t* ids, int64_t vocab_size, const T*,
                              cudaStream_t stream) {
  return Launch(&GatherRanksKernel<T>, Grid(work.num_tiles + work.num_long_tiles), 4 * kWarp, stream, work, ids,
                vocab_size);
}

template <typename T>
cudaError_t LaunchExpand(const SegmentedWork& work, const SegmentedSizes& sizes, const Rows<T>& y,
                         cudaStream_t stream) {
  return Launch(&ExpandKernel<T>, Grid(work.num_tiles, sizes.column_blocks), kExpandThreads, stream, work, y);
}

#define LORAD_FOR_TYPE(T)                                                                                              \
  template cudaError_t LaunchShrink(const SegmentedWork&, const SegmentedSizes&, const ShrinkInput<T>&, cudaStream_t); \
  template cudaError_t LaunchWeighExperts(const SegmentedWork&, const SegmentedSizes&, const ShrinkInput<T>&, float*,  \
                                          cudaStream_t);                                                               \
  template cudaError_t LaunchGatherRanks(const SegmentedWork&, const int32_t*, int64_t, const T*, cudaStream_t);       \
  template cudaError_t LaunchExpand(const SegmentedWork&, const SegmentedSizes&, const Rows<T>&, cudaStream_t)
LORAD_FOR_TYPE(float);
LORAD_FOR_TYPE(Bf16);
#undef LORAD_FOR_TYPE

}  // namespace lorad::cuda
