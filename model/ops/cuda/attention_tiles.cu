#include "model/ops/cuda/attention_tiles.cuh"

#include <algorithm>

#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

// Cuts arrays off a piece of memory, one behind the other; only counts where there is none.
class Cutter final {
 public:
  explicit Cutter(std::byte* memory) : memory_(memory) {}
  template <typename T>
  void Cut(int64_t count, T** array) {
    constexpr int64_t kAlignment = 256;
    *array = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* const memory_;
  int64_t bytes_ = 0;
};

}  // namespace

template <typename T>
int64_t PlaceTiles(const AttentionRows<T>& rows, std::byte* memory, AttentionTiles* tiles) {
  Cutter cutter(memory);
  for (int32_t** array :
       {&tiles->item_starts, &tiles->table_starts, &tiles->last_tokens, &tiles->first_parts, &tiles->refused_starts}) {
    cutter.Cut(rows.sequences + 1, array);
  }
  for (int32_t** array : {&tiles->sequences, &tiles->tiles, &tiles->chunks}) cutter.Cut(tiles->items, array);
  cutter.Cut(tiles->items, &tiles->valid);
  cutter.Cut(1, &tiles->chunk_tokens_there);
  cutter.Cut(1, &tiles->rows_there);
  cutter.Cut(rows.rows, &tiles->refused_rows);
  cutter.Cut(1, &tiles->refused_count);
  cutter.Cut(rows.rows + 1, &tiles->row_parts);
  const int64_t part_heads = tiles->most_chunks > 1 ? rows.rows * tiles->most_chunks * rows.heads : 0;
  cutter.Cut(part_heads, &tiles->part_weights);
  T* parts = nullptr;
  cutter.Cut(part_heads * rows.kv.head_dim, &parts);
  tiles->parts = parts;
  return cutter.bytes();
}

template <typename T>
cudaError_t LaunchAttentionTiles(const AttentionRows<T>& rows, const AttentionTiles& tiles, cudaStream_t stream) {
  constexpr int kWarps = 32;
  return Launch(&AttentionTilesKernel<T>, Grid(1), kWarps * kWarp, stream, rows, tiles);
}

template <typename T>
cudaError_t LaunchRefusedAttention(const AttentionRows<T>& rows, const AttentionTiles& tiles, cudaStream_t stream) {
  constexpr int64_t kMostBlocks = 128;  // there are seldom any such rows
  return Launch(&RefusedAttentionKernel<T>, Grid(std::min(kMostBlocks, rows.rows * rows.heads)),
                kAttentionWarps * kWarp, stream, rows, tiles);
}

template int64_t PlaceTiles(const AttentionRows<Bf16>&, std::byte*, AttentionTiles*);
template cudaError_t LaunchAttentionTiles(const AttentionRows<Bf16>&, const AttentionTiles&, cudaStream_t);
template cudaError_t LaunchRefusedAttention(const AttentionRows<Bf16>&, const AttentionTiles&, cudaStream_t);

}  // namespace lorad::cuda
