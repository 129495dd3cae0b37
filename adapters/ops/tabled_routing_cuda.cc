#include "adapters/ops/tabled_routing.h"

#include <ATen/ops/empty_like.h>

#include "adapters/ops/cuda/routing_kernels.h"
#include "adapters/ops/cuda_ops.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {

absl::Status TabledRouting(const TabledRoutingArgs& args) {
  RoutedRows::OnDevice to = args.to;
  at::Tensor chosen = at::empty_like(to.row_pairs), weights = at::empty_like(to.weights);
  const RoutingWork work = {.routed = args.routed,
                            .num_routed = args.num_routed,
                            .choices = args.most_choices,
                            .slots = args.slots,
                            .tile_of_row = args.tile_of_row,
                            .tiles = args.rows.tiles,
                            .terms = args.rows.terms,
                            .most_terms = args.rows.most_terms,
                            .ranks = args.ranks,
                            .chosen = chosen.mutable_data_ptr<int32_t>(),
                            .chosen_weights = weights.mutable_data_ptr<float>(),
                            .rows = to.rows.mutable_data_ptr<int32_t>(),
                            .row_pairs = to.row_pairs.mutable_data_ptr<int32_t>(),
                            .weights = to.weights.mutable_data_ptr<float>(),
                            .input_rows = to.input_rows.mutable_data_ptr<int32_t>(),
                            .pair_tiles = static_cast<RowTile*>(to.tiles.mutable_data_ptr()),
                            .pair_terms = static_cast<SlotTerm*>(to.terms.mutable_data_ptr())};
  return StatusOf("TabledRouting", ForTypeOf(args.x, [&](auto of_rows) {
                    return LaunchRouteRows(work, RowsOf<decltype(of_rows)>(args.x), args.x.size(1), StreamOf(args.x));
                  }));
}

}  // namespace lorad::cuda
