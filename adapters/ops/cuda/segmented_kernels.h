#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "adapters/ops/row_tiles.h"
#include "adapters/slot_table.h"
#include "model/ops/cuda/row_kernels.h"
#include "model/row_segments.h"

// The low-rank updates of a mixed batch: h = x A^T for all pairs of a tile of rows, then y += s h B^T with all that
// comes with it. Kernels find their work themselves in the arrays below, which are the device's copies of what the CPU
// operators read: the grid depends on numbers of rows, columns and ranks alone, never on which adapters they are of.
namespace lorad::cuda {

inline constexpr int kRanksPerBlock = 8;
inline constexpr int kColumnsPerShortBlock = 512;
inline constexpr int kColumnsPerLongBlock = 128;
inline constexpr int kMostParts = 4;

struct SegmentedPart {
  const SlotWeights* slots;
  int64_t first_column;
  int64_t columns;
};

struct SegmentedWork {
  const RowTile* tiles;
  int64_t num_tiles;       // of kRowsPerTile rows at most
  int64_t num_long_tiles;  // behind them, of kRowsPerLongTile: long_segment_kernels.h
  SegmentedPart parts[kMostParts];
  int32_t num_parts;
  const SlotTerm* terms;
  bool with_bias;  // SlotWeights::bias counts
  float* h;
  int32_t h_slices;  // of a long tile: h [h_slices, rows, ranks], each the sum over a slice of x's width
};

// What the host knows of the work, for the grids.
struct SegmentedSizes {
  int64_t rank_blocks = 0;       // most of a tile
  int64_t long_rank_blocks = 0;  // most of a long tile
  int64_t column_blocks = 0;     // of all parts, of a short tile
  int64_t long_column_blocks = 0;
  int64_t experts = 0;  // most of a slot that routes
};

// Kernels count within kRanksPerBlock rows of A by 32 bits; a launch of more fails.
inline constexpr int64_t kMostShrinkWidth = (int64_t{1} << 31) / (2 * kRanksPerBlock);
template <typename T>
struct ShrinkInput {
  Rows<const T> x;
  int64_t width;              // kMostShrinkWidth at most
  const int32_t* input_rows;  // [rows], or nullptr: each row its own
};
template <typename T>
cudaError_t LaunchShrink(const SegmentedWork& work, const SegmentedSizes& sizes, const ShrinkInput<T>& input,
                         cudaStream_t stream);
// Multiplies what each expert of a slot that routes made of a row by its weight. logits [num_tiles, kRowsPerTile,
// sizes.experts] is scratch.
template <typename T>
cudaError_t LaunchWeighExperts(const SegmentedWork& work, const SegmentedSizes& sizes, const ShrinkInput<T>& input,
                               float* logits, cudaStream_t stream);
// h of an embedding, in long tiles as well: columns ids[r] of A [rank, vocab_size].
template <typename T>
cudaError_t LaunchGatherRanks(const SegmentedWork& work, const int32_t* ids, int64_t vocab_size, const T* type,
                              cudaStream_t stream);
template <typename T>
cudaError_t LaunchExpand(const SegmentedWork& work, const SegmentedSizes& sizes, const Rows<T>& y, cudaStream_t stream);

}  // namespace lorad::cuda
