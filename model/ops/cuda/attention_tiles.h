#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "model/ops/cuda/attention_kernels.h"

// The plan of an attention whose blocks take tiles of rows and chunks of context (fast_attention.h), made on the
// device: nothing waits for the host, and how much is asked for goes by shapes alone.
namespace lorad::cuda {

__host__ __device__ constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A KV head's rows are packed: `row * group + h` for the `group` query heads that it has. An item is a tile of
// tile_rows packed rows of one sequence, and chunk_tokens of the context, from the oldest token that the tile sees on.
// All arrays are the device's; S sequences, T rows.
struct AttentionTiles {
  int32_t tile_rows;
  int32_t chunk_tokens;
  int32_t items;        // launched; those beyond the real ones are not valid
  int32_t most_chunks;  // of a sequence; 1: results go straight to y

  int32_t* item_starts;         // [S + 1]
  int32_t* sequences;           // [items]
  int32_t* tiles;               // [items], within the sequence
  int32_t* chunks;              // [items], within the tile
  bool* valid;                  // [items]
  int32_t* chunk_tokens_there;  // [1]: chunk_tokens
  int32_t* table_starts;        // [S + 1]: each sequence's first entry of the block table
  int32_t* last_tokens;         // [S]: of the context in the table's last block, negative for what is shorter than that
  // Partial results: chunk c of row r lies at row_parts[r] + c; a sequence's begin at first_parts[s].
  int32_t* first_parts;  // [S + 1]; of one chunk: the first row
  int32_t* row_parts;    // [T + 1]
  uint32_t* rows_there;  // [1]: of all sequences
  void* parts;           // [T * most_chunks, heads, head_dim] of the rows' type
  float* part_weights;   // [T * most_chunks, heads]: log2 of the sum of exponentials
  // A sequence whose rows are not consecutive, or miss a block, has no items: each row is for itself
  // (LaunchRefusedAttention), and so are rows of no sequence, which are listed last.
  int32_t* refused_starts;  // [S + 1]: where each sequence's refused rows begin in the list, and all of them end
  int32_t* refused_rows;    // [T]
  int32_t* refused_count;   // [1]
};

template <typename T>
cudaError_t LaunchAttentionTiles(const AttentionRows<T>& rows, const AttentionTiles& tiles, cudaStream_t stream);

// The rows that have no items: those of refused sequences, and of none, by LaunchPagedAttention's kernel.
template <typename T>
cudaError_t LaunchRefusedAttention(const AttentionRows<T>& rows, const AttentionTiles& tiles, cudaStream_t stream);

// Where the arrays of a plan of these sizes lie in one piece of memory; how many bytes it is. No memory: only counts.
template <typename T>
int64_t PlaceTiles(const AttentionRows<T>& rows, std::byte* memory, AttentionTiles* tiles);

}  // namespace lorad::cuda
