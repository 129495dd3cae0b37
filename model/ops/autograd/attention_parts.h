#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "model/ops/autograd/attention_shape.h"
#include "model/ops/cpu/panel_kernels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/pieces.h"

namespace lorad {

inline constexpr int64_t kTileRows = 64;  // queries of one head at a time

// Queries [first, first + rows) of one sequence and the keys [first_key, end_key) that any of them sees.
struct AttentionTile {
  int64_t first;
  int64_t rows;
  int64_t first_key;  // a multiple of 16
  int64_t end_key;
  int64_t keys() const { return end_key - first_key; }
};
AttentionTile TileAt(const AttentionShape& shape, int64_t first, int64_t tokens);

// Queries [first, end), whole tiles, of a head of a sequence.
struct AttentionPart {
  int64_t sequence;
  int64_t head;
  int64_t first;
  int64_t end;
  int64_t products;
};

// Parts that cover an attention of `products` multiplications for a query, a key and a coordinate. Those of one wave
// are of different heads or sequences; a wave comes behind the one before. A long sequence has parts in several waves,
// as many as it takes for its parts in one to be no more than a piece (model/ops/pieces.h).
std::vector<std::vector<AttentionPart>> WavesOf(const AttentionShape& shape, int64_t products);

// fn(task) for tasks of products(task) multiplications, shared among threads, as pieces.
template <typename Products, typename Fn>
void TasksInPieces(int64_t count, const Products& products, const Fn& fn) {
  for (int64_t first = 0, end = 0; first < count; first = end) {
    int64_t sum = 0;
    // As many as there are threads in any case.
    for (; end < count; ++end) {
      const int64_t next = products(end);
      if (sum + next > kPieceProducts && end - first >= cpu::ComputeThreads()) break;
      sum += next;
    }
    BeginPiece(sum);
    cpu::ParallelTasks(end - first, [&](int64_t task) { fn(first + task); });
  }
}

}  // namespace lorad
