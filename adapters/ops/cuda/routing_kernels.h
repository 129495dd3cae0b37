#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "adapters/ops/routed_row.h"
#include "adapters/ops/row_tiles.h"
#include "adapters/slot_table.h"
#include "model/ops/cuda/row_kernels.h"
#include "model/row_segments.h"

namespace lorad::cuda {

// Routed rows of a step, and the tables that are made of them; the contract is TabledRouting's. Pointers are the
// device's.
struct RoutingWork {
  const RoutedRow* routed;  // [num_routed]
  int64_t num_routed;
  int64_t choices;             // most of a row
  const SlotWeights* slots;    // their routers
  const int32_t* tile_of_row;  // of `tiles`
  const RowTile* tiles;
  const SlotTerm* terms;
  int64_t most_terms;     // of a tile
  int64_t ranks;          // of h for each pair
  int32_t* chosen;        // [num_routed, choices], the likeliest first: scratch
  float* chosen_weights;  // the same
  int32_t* rows;          // [num_routed]
  int32_t* row_pairs;     // [num_routed, choices]
  float* weights;         // [num_routed, choices]
  int32_t* input_rows;    // [num_routed * choices]
  RowTile* pair_tiles;    // [num_routed * choices]
  SlotTerm* pair_terms;   // [num_routed * choices, most_terms]
};
// T is float or __nv_bfloat16.
template <typename T>
cudaError_t LaunchRouteRows(const RoutingWork& work, const Rows<const T>& x, int64_t width, cudaStream_t stream);

}  // namespace lorad::cuda
