#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "adapters/ops/routed_row.h"
#include "adapters/ops/tabled_rows.h"
#include "model/adapter_seam.h"

namespace lorad {

// RouteRows (adapters/apply_routing.h) for launches that are captured: which rows go to experts is read out of a table,
// where they go is known on the device alone. Of each routed row the experts of its slot's router with the largest
// softmax of logits x Wg^T, in f32 (of equals the lowest number), as pairs by ascending expert; a tile for each pair,
// with the terms of its row's tile, that of the router's slot at the pair's expert. Rows that are no numbers go to the
// first experts, with weights that are none. Counts the rows of each expert.
//
// x [R, in] f32 or bf16. routed [num_routed]; slots as their `slot`s name them, whose routers have kMaxExperts experts
// at most; tile_of_row [R]: of rows.tiles. `ranks` of h for each pair. to: Q = num_routed, k = most_choices >= top_k.
// Errors: InvalidArgument names the argument; Unimplemented on the CPU and without CUDA.
struct TabledRoutingArgs {
  const at::Tensor& x;
  const SlotWeights* slots;
  const RoutedRow* routed;
  int64_t num_routed;
  int64_t most_choices;
  int64_t ranks;
  const TabledRows& rows;
  const int32_t* tile_of_row;
  const RoutedRows::OnDevice& to;
};
absl::Status TabledRouting(const TabledRoutingArgs& args);

// What TabledRouting fills, not written yet.
RoutedRows::OnDevice EmptyRouting(int64_t num_routed, int64_t most_choices, int64_t most_terms, at::Device device);

}  // namespace lorad
