#include "adapters/ops/tabled_rows.h"

#include <ATen/ops/empty.h>

#include "adapters/ops/cuda/replaced_kernels.h"
#include "adapters/ops/cuda/segmented_kernels.h"
#include "adapters/ops/cuda/tabled_kernels.h"
#include "adapters/ops/cuda_ops.h"
#include "model/base/round_up.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"

// Launches that may be captured: nothing is copied to the device here.
namespace lorad::cuda {
namespace {

// Scratch of one call, given back in the stream's order.
struct Scratch {
  at::Tensor h, logits;
};

Scratch ScratchFor(const TabledRows& rows, int64_t experts, const at::Tensor& beside) {
  const auto f32 = at::TensorOptions().dtype(at::kFloat).device(beside.device());
  return {at::empty({rows.h_floats}, f32), at::empty({rows.num_tiles * kRowsPerTile * experts}, f32)};
}

SegmentedWork WorkOf(const TabledRows& rows, bool with_bias, Scratch& scratch) {
  SegmentedWork work = {};
  work.tiles = rows.tiles;
  work.num_tiles = rows.num_tiles;
  work.terms = rows.terms;
  work.with_bias = with_bias;
  work.h = scratch.h.mutable_data_ptr<float>();
  return work;
}

void AddPart(const SegmentedPart& part, const TabledRows& rows, SegmentedWork* work, SegmentedSizes* sizes) {
  work->parts[work->num_parts++] = part;
  sizes->column_blocks += CeilDiv(part.columns, kColumnsPerBlock);
  sizes->rank_blocks += rows.most_terms * CeilDiv(rows.most_ranks, kRanksPerBlock);
}

template <typename T>
cudaError_t Add(const TabledGemmArgs& args, const SegmentedWork& work, const SegmentedSizes& sizes, Scratch& scratch) {
  const cudaStream_t stream = StreamOf(args.y);
  const ShrinkInput<T> input = {RowsOf<T>(args.x), args.x.size(1), DataOf<int32_t>(args.input_rows)};
  cudaError_t error = LaunchShrink(work, sizes, input, stream);
  if (error == cudaSuccess && sizes.experts > 0) {
    error = LaunchWeighExperts(work, sizes, input, scratch.logits.mutable_data_ptr<float>(), stream);
  }
  return error == cudaSuccess ? LaunchExpand(work, sizes, MutableRowsOf<T>(args.y), stream) : error;
}

}  // namespace

absl::Status TabledGemm(const TabledGemmArgs& args) {
  if (std::ssize(args.parts) > kMostParts) {
    return ArgCheck("TabledGemm").Error("parts", absl::StrCat(args.parts.size()), absl::StrCat(kMostParts, " on CUDA"));
  }
  Scratch scratch = ScratchFor(args.rows, args.most_experts, args.y);
  SegmentedWork work = WorkOf(args.rows, /*with_bias=*/true, scratch);
  SegmentedSizes sizes;
  sizes.experts = args.most_experts;
  for (const SegmentedGemmPart& part : args.parts) {
    AddPart({part.slots, part.first_column, part.columns}, args.rows, &work, &sizes);
  }
  if (sizes.column_blocks == 0) return absl::OkStatus();
  return StatusOf("TabledGemm",
                  ForTypeOf(args.y, [&](auto of_rows) { return Add<decltype(of_rows)>(args, work, sizes, scratch); }));
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
                                .ranks = args.rows.most_terms * args.rows.most_ranks,
                                .pair_tiles = static_cast<RowTile*>(args.tiles.mutable_data_ptr()),
                                .pair_terms = static_cast<SlotTerm*>(args.terms.mutable_data_ptr())};
  return StatusOf("TabledPairs", LaunchTabledPairs(work, StreamOf(args.tiles)));
}

absl::Status TabledEmbedding(const TabledEmbeddingArgs& args) {
  Scratch scratch = ScratchFor(args.rows, /*experts=*/0, args.y);
  SegmentedWork work = WorkOf(args.rows, /*with_bias=*/false, scratch);
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
