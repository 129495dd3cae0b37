#include "adapters/ops/cuda/tabled_kernels.h"

#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

// Whose pair it is: starts ascend, and pair < starts[experts].
__device__ int32_t ExpertOfPair(const TabledPairsWork& work, int64_t pair) {
  int64_t first = 0, end = work.experts;  // starts[first] <= pair < starts[end]
  while (end - first > 1) {
    const int64_t middle = (first + end) / 2;
    (work.starts[middle] <= pair ? first : end) = middle;
  }
  return static_cast<int32_t>(first);
}

// A thread a pair.
__global__ void TabledPairsKernel(TabledPairsWork work) {
  const int64_t pair = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (pair >= work.pairs) return;
  RowTile tile;
  const int32_t of_row = pair < work.starts[work.experts] ? work.tile_of_row[work.rows[pair]] : -1;
  if (of_row >= 0) {
    const RowTile from = work.tiles[of_row];
    const auto first_term = static_cast<int32_t>(pair * work.most_terms);
    tile = {static_cast<int32_t>(pair), 1,         first_term, first_term + from.end_term - from.first_term,
            pair * work.ranks,          work.ranks};
    const int32_t expert = ExpertOfPair(work, pair);
    for (int32_t t = from.first_term; t < from.end_term; ++t) {
      SlotTerm term = work.terms[t];
      term.expert = expert;
      work.pair_terms[first_term + t - from.first_term] = term;
    }
  }
  work.pair_tiles[pair] = tile;
}

}  // namespace

cudaError_t LaunchTabledPairs(const TabledPairsWork& work, cudaStream_t stream) {
  constexpr int kThreads = 128;
  return Launch(&TabledPairsKernel, Grid((work.pairs + kThreads - 1) / kThreads), kThreads, stream, work);
}

}  // namespace lorad::cuda
