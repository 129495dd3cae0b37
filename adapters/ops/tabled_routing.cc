#include "adapters/ops/tabled_routing.h"

#include <ATen/ops/empty.h>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

absl::Status NotOnCpu(const TabledRoutingArgs&) {
  return absl::UnimplementedError("routing by tables: device: cpu; limit: a CUDA device; the CPU captures nothing");
}

}  // namespace

RoutedRows::OnDevice EmptyRouting(int64_t num_routed, int64_t most_choices, int64_t most_terms, at::Device device) {
  const int64_t pairs = num_routed * most_choices;
  const auto ints = at::TensorOptions().dtype(at::kInt).device(device);
  const auto bytes = ints.dtype(at::kByte);
  return {.rows = at::empty({num_routed}, ints),
          .row_pairs = at::empty({num_routed, most_choices}, ints),
          .weights = at::empty({num_routed, most_choices}, ints.dtype(at::kFloat)),
          .input_rows = at::empty({pairs}, ints),
          .tiles = at::empty({pairs, sizeof(RowTile)}, bytes),
          .terms = at::empty({pairs, most_terms, sizeof(SlotTerm)}, bytes)};
}

absl::Status TabledRouting(const TabledRoutingArgs& args) {
  const ArgCheck check("TabledRouting");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  RETURN_IF_ERROR(check.Tensor("x", args.x, args.x.scalar_type(), {ArgCheck::kAny, ArgCheck::kAny}));
  const int64_t pairs = args.num_routed * args.most_choices;
  if (args.num_routed < 1 || args.num_routed > args.x.size(0) || args.most_choices < 1) {
    return check.Error("routed", absl::StrCat(args.num_routed, " rows of ", args.most_choices, " experts"),
                       absl::StrCat("1 to ", args.x.size(0), " rows, 1 or more experts"));
  }
  if (args.routed == nullptr || args.slots == nullptr || args.tile_of_row == nullptr || args.rows.tiles == nullptr) {
    return check.Error("routed", "no tables", "the step's");
  }
  const RoutedRows::OnDevice& to = args.to;
  RETURN_IF_ERROR(check.Contiguous("rows", to.rows, at::kInt, {args.num_routed}));
  RETURN_IF_ERROR(check.Contiguous("row_pairs", to.row_pairs, at::kInt, {args.num_routed, args.most_choices}));
  RETURN_IF_ERROR(check.Contiguous("weights", to.weights, at::kFloat, {args.num_routed, args.most_choices}));
  RETURN_IF_ERROR(check.Contiguous("input_rows", to.input_rows, at::kInt, {pairs}));
  RETURN_IF_ERROR(check.Contiguous("tiles", to.tiles, at::kByte, {pairs, sizeof(RowTile)}));
  RETURN_IF_ERROR(check.Contiguous("terms", to.terms, at::kByte, {pairs, args.rows.most_terms, sizeof(SlotTerm)}));
  for (const at::Tensor* beside : {&to.rows, &to.row_pairs, &to.weights, &to.input_rows, &to.tiles, &to.terms}) {
    RETURN_IF_ERROR(check.SameDevice(args.x, "what is written", *beside));
  }
  return Dispatch("TabledRouting", args.x, &NotOnCpu, InstalledCudaOps().tabled_routing, args);
}

}  // namespace lorad
