#include "adapters/ops/tabled_rows.h"

#include <ATen/ops/empty.h>

#include "adapters/ops/cuda/replaced_kernels.h"
#include "adapters/ops/cuda/segmented_kernels.h"
#include "adapters/ops/cuda/tabled_kernels.h"
#include "adapters/ops/cuda_ops.h"
#include "model/base/round_up.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"

// Launches that may be captured: nothing is copied to the device here.
namespace lorad::cuda {
namespace {

static_assert(kMostParts == kMostTabledParts);

SegmentedWork WorkOf(const TabledRows& rows, bool with_bias, const at::Tensor& h) {
  SegmentedWork work = {};
  work.tiles = rows.tiles;
  work.num_tiles = rows.num_tiles;
  work.terms = rows.terms;
  work.with_bias = with_bias;
  work.h = static_cast<float*>(h.data_ptr());  // one half writes it, the other reads it
  return work;
}

void AddPart(const SegmentedPart& part, const TabledRows& rows, SegmentedWork* work, SegmentedSizes* sizes) {
  work->parts[work->num_parts++] = part;
  sizes->column_blocks += CeilDiv(part.columns, kColumnsPerShortBlock);
  sizes->rank_blocks += CeilDiv(rows.most_ranks, kRanksPerBlock);
}

// What both halves are launched by.
struct Half {
  SegmentedWork work;
  SegmentedSizes sizes;
};
Half HalfOf(const at::Tensor& h, absl::Span<const SegmentedGemmPart> parts, const TabledRows& rows) {
  Half half = {WorkOf(rows, /*with_bias=*/true, h), {}};
  for (const SegmentedGemmPart& part : parts) {
    AddPart({part.slots, part.first_column, part.columns}, rows, &half.work, &half.sizes);
  }
  return half;
}

}  // namespace

absl::Status TabledShrink(const TabledShrinkArgs& args) {
  Half half = HalfOf(args.h, args.parts, args.rows);
  half.sizes.experts = args.most_experts;
  if (half.sizes.column_blocks == 0) return absl::OkStatus();
  float* const logits = half.work.h + args.rows.h_floats;
  return StatusOf("TabledShrink", ForTypeOf(args.x, [&](auto of_rows) {
                    using T = decltype(of_rows);
                    const cudaStream_t stream = StreamOf(args.x);
                    const ShrinkInput<T> input = {RowsOf<T>(args.x), args.x.size(1), DataOf<int32_t>(args.input_rows)};
                    const cudaError_t error = LaunchShrink(half.work, half.sizes, input, stream);
                    if (error != cudaSuccess || args.most_experts == 0) return error;
                    return LaunchWeighExperts(half.work, half.sizes, input, logits, stream);
                  }));
}

absl::Status TabledExpand(const TabledExpandArgs& args) {
  const Half half = HalfOf(args.h, args.parts, args.rows);
  if (half.sizes.column_blocks == 0) return absl::OkStatus();
  return StatusOf("TabledExpand", ForTypeOf(args.y, [&](auto of_rows) {
                    return LaunchExpand(half.work, half.sizes, MutableRowsOf<decltype(of_rows)>(args.y),
                                        StreamOf(args.y));
                  }));
}

absl::Status TabledPairs(const TabledPairsArgs& args) {
  if (args.dealt.num_pairs() == 0) return absl::OkStatus();
  const TabledPairsWork work = {.pairs = args.dealt.num_pairs(),
                                .experts = args.dealt.experts(),
                                .starts = args.dealt.starts.const_data_ptr<int32_t>(),
                                .rows = args.dealt.rows.const_data_ptr<int32_t>(),
                                .tile_of_row = args.tile_of_row,
                                .tiles = args.rows.tiles,
                                .terms = args.rows.terms,
                                .most_terms = args.rows.most_terms,
                                .ranks = args.rows.most_ranks,
                                .pair_tiles = static_cast<RowTile*>(args.tiles.mutable_data_ptr()),
                                .pair_terms = static_cast<SlotTerm*>(args.terms.mutable_data_ptr())};
  return StatusOf("TabledPairs", LaunchTabledPairs(work, StreamOf(args.tiles)));
}

absl::Status TabledEmbedding(const TabledEmbeddingArgs& args) {
  const at::Tensor h = at::empty({args.rows.h_floats}, args.y.options().dtype(at::kFloat));
  SegmentedWork work = WorkOf(args.rows, /*with_bias=*/false, h);
  SegmentedSizes sizes;
  AddPart({args.slots, 0, args.y.size(1)}, args.rows, &work, &sizes);
  if (sizes.column_blocks == 0) return absl::OkStatus();
  return StatusOf("TabledEmbedding", ForTypeOf(args.y, [&](auto of_rows) {
                    using T = decltype(of_rows);
                    const T* const type = nullptr;
                    const cudaStream_t stream = StreamOf(args.y);
                    const cudaError_t error =
                        LaunchGatherRanks(work, args.ids.const_data_ptr<int32_t>(), args.vocab_size, type, stream);
                    return error == cudaSuccess ? LaunchExpand(work, sizes, MutableRowsOf<T>(args.y), stream) : error;
                  }));
}

absl::Status TabledReplacedEmbedding(const TabledReplacedEmbeddingArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  return StatusOf("TabledReplacedEmbedding", ForTypeOf(args.y, [&](auto of_rows) {
                    return LaunchReplaceEmbeddingRows(args.tiles, args.num_tiles, args.ids.const_data_ptr<int32_t>(),
                                                      args.y.size(1), MutableRowsOf<decltype(of_rows)>(args.y),
                                                      StreamOf(args.y));
                  }));
}

absl::Status TabledReplacedHead(const TabledReplacedHeadArgs& args) {
  if (args.y.numel() == 0 || args.most_rows == 0) return absl::OkStatus();
  return StatusOf("TabledReplacedHead", ForTypeOf(args.y, [&](auto of_rows) {
                    using T = decltype(of_rows);
                    return LaunchReplaceHeadRows(args.tiles, args.num_tiles, args.most_rows, RowsOf<T>(args.x),
                                                 args.x.size(1), MutableRowsOf<T>(args.y), args.y.size(1),
                                                 StreamOf(args.y));
                  }));
}

}  // namespace lorad::cuda
