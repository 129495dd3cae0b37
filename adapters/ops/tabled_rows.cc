#include "adapters/ops/tabled_rows.h"

#include <iterator>
#include <limits>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

template <typename Args>
absl::Status NotOnCpu(const Args&) {
  return absl::UnimplementedError("rows by tables: device: cpu; limit: a CUDA device; the CPU captures nothing");
}

absl::Status CheckRows(const ArgCheck& check, const TabledRows& rows, int64_t y_rows) {
  if (rows.num_tiles < 1 || rows.num_tiles > y_rows || rows.tiles == nullptr || rows.terms == nullptr) {
    return check.Error("rows", absl::StrCat(rows.num_tiles, " tiles"), absl::StrCat("1 to ", y_rows, ", with terms"));
  }
  if (rows.most_terms < 1 || rows.most_ranks < 1 || rows.h_floats < 1) {
    return check.Error("rows", absl::StrCat(rows.most_terms, " terms of ", rows.most_ranks, " ranks"), "1 or more");
  }
  return absl::OkStatus();
}

absl::Status CheckH(const ArgCheck& check, const at::Tensor& beside, const at::Tensor& h, int64_t floats) {
  RETURN_IF_ERROR(check.Contiguous("h", h, at::kFloat, {ArgCheck::kAny}));
  if (h.numel() < floats) return check.Error("h", absl::StrCat(h.numel(), " floats"), absl::StrCat(floats, " or more"));
  return check.SameDevice(beside, "h", h);
}

// columns: of y.
absl::Status CheckParts(const ArgCheck& check, absl::Span<const SegmentedGemmPart> parts, int64_t columns) {
  if (std::ssize(parts) > kMostTabledParts) {
    return check.Error("parts", absl::StrCat(parts.size()), absl::StrCat(kMostTabledParts, " on CUDA"));
  }
  for (const SegmentedGemmPart& part : parts) {
    if (part.first_column < 0 || part.columns < 0 || part.first_column > columns - part.columns) {
      return check.Error("parts", absl::StrCat("columns ", part.first_column, " to ", part.first_column + part.columns),
                         absl::StrCat("0 to ", columns));
    }
    if (part.slots == nullptr) return check.Error("parts", "no slots", "a slot table");
  }
  return absl::OkStatus();
}

absl::Status CheckTiles(const ArgCheck& check, const ReplacedTile* tiles, int64_t num_tiles) {
  if (tiles != nullptr && num_tiles > 0) return absl::OkStatus();
  return check.Error("tiles", absl::StrCat(num_tiles), "1 or more");
}

}  // namespace

absl::Status TabledShrink(const TabledShrinkArgs& args) {
  const ArgCheck check("TabledShrink");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  RETURN_IF_ERROR(check.Tensor("x", args.x, args.x.scalar_type(), {ArgCheck::kAny, ArgCheck::kAny}));
  if (args.input_rows.defined()) {
    RETURN_IF_ERROR(check.Contiguous("input_rows", args.input_rows, at::kInt, {ArgCheck::kAny}));
    RETURN_IF_ERROR(check.SameDevice(args.x, "input_rows", args.input_rows));
  }
  RETURN_IF_ERROR(CheckRows(check, args.rows, (args.input_rows.defined() ? args.input_rows : args.x).size(0)));
  RETURN_IF_ERROR(CheckH(check, args.x, args.h, HFloats(args.rows, args.most_experts)));
  RETURN_IF_ERROR(CheckParts(check, args.parts, /*columns=*/std::numeric_limits<int64_t>::max()));
  return Dispatch("TabledShrink", args.x, &NotOnCpu<TabledShrinkArgs>, InstalledCudaOps().tabled_shrink, args);
}

absl::Status TabledExpand(const TabledExpandArgs& args) {
  const ArgCheck check("TabledExpand");
  RETURN_IF_ERROR(check.Floating("y", args.y));
  RETURN_IF_ERROR(check.Tensor("y", args.y, args.y.scalar_type(), {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(CheckRows(check, args.rows, args.y.size(0)));
  RETURN_IF_ERROR(CheckH(check, args.y, args.h, args.rows.h_floats));
  RETURN_IF_ERROR(CheckParts(check, args.parts, args.y.size(1)));
  return Dispatch("TabledExpand", args.y, &NotOnCpu<TabledExpandArgs>, InstalledCudaOps().tabled_expand, args);
}

absl::Status TabledPairs(const TabledPairsArgs& args) {
  const ArgCheck check("TabledPairs");
  const int64_t pairs = args.dealt.num_pairs();
  RETURN_IF_ERROR(CheckRows(check, args.rows, args.dealt.pairs.size(0)));
  RETURN_IF_ERROR(check.Contiguous("tiles", args.tiles, at::kByte, {pairs, sizeof(RowTile)}));
  RETURN_IF_ERROR(check.Contiguous("terms", args.terms, at::kByte, {pairs, args.rows.most_terms, sizeof(SlotTerm)}));
  RETURN_IF_ERROR(check.SameDevice(args.dealt.rows, "tiles", args.tiles));
  RETURN_IF_ERROR(check.SameDevice(args.dealt.rows, "terms", args.terms));
  if (args.tile_of_row == nullptr) return check.Error("tile_of_row", "none", "one of each row");
  return Dispatch("TabledPairs", args.tiles, &NotOnCpu<TabledPairsArgs>, InstalledCudaOps().tabled_pairs, args);
}

absl::Status TabledEmbedding(const TabledEmbeddingArgs& args) {
  const ArgCheck check("TabledEmbedding");
  RETURN_IF_ERROR(check.Contiguous("ids", args.ids, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Floating("y", args.y));
  RETURN_IF_ERROR(check.Tensor("y", args.y, args.y.scalar_type(), {args.ids.size(0), ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.ids, "y", args.y));
  RETURN_IF_ERROR(CheckRows(check, args.rows, args.ids.size(0)));
  if (args.slots == nullptr) return check.Error("slots", "none", "a slot table");
  return Dispatch("TabledEmbedding", args.y, &NotOnCpu<TabledEmbeddingArgs>, InstalledCudaOps().tabled_embedding, args);
}

absl::Status TabledReplacedEmbedding(const TabledReplacedEmbeddingArgs& args) {
  const ArgCheck check("TabledReplacedEmbedding");
  RETURN_IF_ERROR(check.Contiguous("ids", args.ids, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Floating("y", args.y));
  RETURN_IF_ERROR(check.Tensor("y", args.y, args.y.scalar_type(), {args.ids.size(0), ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.ids, "y", args.y));
  RETURN_IF_ERROR(CheckTiles(check, args.tiles, args.num_tiles));
  return Dispatch("TabledReplacedEmbedding", args.y, &NotOnCpu<TabledReplacedEmbeddingArgs>,
                  InstalledCudaOps().tabled_replaced_embedding, args);
}

absl::Status TabledReplacedHead(const TabledReplacedHeadArgs& args) {
  const ArgCheck check("TabledReplacedHead");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  RETURN_IF_ERROR(check.Tensor("x", args.x, args.x.scalar_type(), {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, args.x.scalar_type(), {args.x.size(0), ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "y", args.y));
  RETURN_IF_ERROR(CheckTiles(check, args.tiles, args.num_tiles));
  return Dispatch("TabledReplacedHead", args.y, &NotOnCpu<TabledReplacedHeadArgs>,
                  InstalledCudaOps().tabled_replaced_head, args);
}

}  // namespace lorad
