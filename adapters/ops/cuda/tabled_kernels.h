#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "adapters/ops/row_tiles.h"
#include "model/row_segments.h"

namespace lorad::cuda {

// A step's tables, and those that are made of them for the pairs of its dealt rows. Pointers are the device's.
struct TabledPairsWork {
  int64_t pairs;
  int64_t experts;
  const int32_t* starts;       // [experts + 1]
  const int32_t* rows;         // [pairs]
  const int32_t* tile_of_row;  // of `tiles`; negative: none
  const RowTile* tiles;
  const SlotTerm* terms;
  int64_t most_terms;    // of a tile
  int64_t ranks;         // of h for each pair
  RowTile* pair_tiles;   // [pairs]
  SlotTerm* pair_terms;  // [pairs, most_terms]
};
cudaError_t LaunchTabledPairs(const TabledPairsWork& work, cudaStream_t stream);

}  // namespace lorad::cuda
