#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "adapters/ops/replaced_rows.h"
#include "adapters/ops/row_tiles.h"
#include "adapters/ops/segmented_gemm.h"
#include "model/ops/dealt_experts.h"

namespace lorad {

// The segmented operators for launches that are captured and run again (model/ops/device_graph.h): what they apply is
// read out of tables on the device, whose contents may be others by then. Nothing of the step's adapters is baked in
// but the sizes below, which bound what tables may say.
//
// Every pointer is the device's. A tile without rows is passed over, so is a term whose slot has nothing at a part.
struct TabledRows {
  const RowTile* tiles = nullptr;   // [num_tiles]
  int64_t num_tiles = 0;            // rows of all tiles: num_tiles at most
  const SlotTerm* terms = nullptr;  // slots as in the tables
  int64_t most_terms = 0;           // of a tile
  int64_t most_ranks = 0;           // of a row at a part, each term's as a multiple of 8; tiles' `ranks`: all parts'
  int64_t h_floats = 0;             // that the tiles' h_offsets reach
};

inline constexpr int64_t kMostTabledParts = 4;

// SegmentedGemm (segmented_gemm.h), by tables, in two halves: h = x A^T waits for x alone. Parts, kMostTabledParts at
// most, and rows are the same for both. x [R, in], y [R, >= out] of one dtype, R >= the tiles' rows; h [HFloats] f32,
// scratch of both. most_experts: of a slot that routes at one of the parts; 0: none does. input_rows [rows of y] int32,
// if defined: which row of x each one reads; x may then have other rows than y. Errors of all: InvalidArgument names
// the argument; Unimplemented on the CPU and without CUDA.
inline int64_t HFloats(const TabledRows& rows, int64_t most_experts) {
  return rows.h_floats + rows.num_tiles * kRowsPerTile * most_experts;  // routers' logits behind h
}
struct TabledShrinkArgs {
  const at::Tensor& x;
  at::Tensor& h;
  absl::Span<const SegmentedGemmPart> parts;
  int64_t most_experts;
  const TabledRows& rows;
  at::Tensor input_rows = {};
};
absl::Status TabledShrink(const TabledShrinkArgs& args);

struct TabledExpandArgs {
  const at::Tensor& h;
  at::Tensor& y;
  absl::Span<const SegmentedGemmPart> parts;
  const TabledRows& rows;
};
absl::Status TabledExpand(const TabledExpandArgs& args);

// The tables of pairs of a row and an expert, of rows that were dealt on the device: for both halves over y [P, out] a
// tile for each pair, with the terms of its row's tile at the pair's expert. `rows` is the step's table; tile_of_row
// [R]: of rows.tiles, negative where a row has no terms. tiles [P, bytes of a RowTile], terms [P, most_terms, bytes of
// a SlotTerm] uint8.
struct TabledPairsArgs {
  const DealtRows& dealt;
  const TabledRows& rows;
  const int32_t* tile_of_row;
  at::Tensor& tiles;
  at::Tensor& terms;
};
absl::Status TabledPairs(const TabledPairsArgs& args);

// SegmentedEmbedding. ids [R] int32, y [R, columns].
struct TabledEmbeddingArgs {
  const at::Tensor& ids;
  at::Tensor& y;
  const SlotWeights* slots;
  int64_t vocab_size;
  const TabledRows& rows;
};
absl::Status TabledEmbedding(const TabledEmbeddingArgs& args);

// ReplaceEmbeddingRows and ReplaceHeadRows (replaced_rows.h). tiles [num_tiles] with y's width, or x's. most_rows: that
// a slot replaces, for the grid.
struct TabledReplacedEmbeddingArgs {
  const at::Tensor& ids;
  at::Tensor& y;
  const ReplacedTile* tiles;
  int64_t num_tiles;
};
absl::Status TabledReplacedEmbedding(const TabledReplacedEmbeddingArgs& args);

struct TabledReplacedHeadArgs {
  const at::Tensor& x;
  at::Tensor& y;
  const ReplacedTile* tiles;
  int64_t num_tiles;
  int64_t most_rows;
};
absl::Status TabledReplacedHead(const TabledReplacedHeadArgs& args);

}  // namespace lorad
