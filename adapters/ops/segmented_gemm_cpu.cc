#include <algorithm>
#include <vector>

#include "adapters/ops/cpu/column_terms.h"
#include "adapters/ops/cpu/expand_kernels.h"
#include "adapters/ops/cpu/weigh_experts.h"
#include "adapters/ops/cpu_ops.h"
#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu/dot_kernels.h"
#include "model/ops/cpu/parallel.h"

// h = x A^T, y += s h B^T, per block of rows of one segment. Few and short rows are bound by reading A and B once, long
// segments by arithmetic; both run in the tiles of dot_kernels and expand_kernels. A block's weights come from L2 for
// all of its rows.
namespace lorad::cpu {
namespace {

constexpr int64_t kRowsPerBlock = 32;
constexpr int64_t kProductsOfOneThread = 1 << 16;  // less in all is not shared
constexpr int64_t kProductsOfRegion = 1 << 17;     // what a second parallel region must save
constexpr int64_t kSumsAtOnce = 1 << 11;           // a quarter of L1
constexpr int64_t kRanksPerTask = 8;
constexpr int64_t kColumnsPerTask = 256;

struct RowBlock {
  int64_t first_row;
  int64_t rows;
  int32_t first_term;
  int32_t end_term;
  int64_t sum_of_ranks;  // over its terms and the parts
  int64_t products;
};

template <typename T>
class Job final {
 public:
  explicit Job(const SegmentedGemmArgs& args)
      : args_(args),
        in_(args.x.size(1)),
        x_stride_(args.x.stride(0)),
        y_stride_(args.y.stride(0)),
        x_(static_cast<const T*>(args.x.const_data_ptr())),
        y_(static_cast<T*>(args.y.mutable_data_ptr())),
        packed_stride_(PackedFloats(in_)) {}

  void Run() {
    const int64_t threads = ComputeThreads();
    CutIntoBlocks(threads);
    int64_t total = 0;
    for (const RowBlock& block : blocks_) total += block.products;
    if (total <= kProductsOfOneThread || threads == 1) {
      RunBlocks(0, blocks_.size());
      return;
    }
    // Consecutive blocks of equal work, the same ones to the same thread in every step: its cache may still hold them.
    std::vector<size_t> ends;
    int64_t done = 0, begun = 0, largest = 0;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      done += blocks_[i].products;
      if (done * threads < total * static_cast<int64_t>(ends.size() + 1) && i + 1 < blocks_.size()) continue;
      ends.push_back(i + 1);
      largest = std::max(largest, done - begun);
      begun = done;
    }
    if (largest - total / threads > kProductsOfRegion) {
      RunInTwoPhases();
      return;
    }
    ParallelFor(static_cast<int64_t>(ends.size()), 1,
                [&](int64_t begin, int64_t end) { RunBlocks(begin == 0 ? 0 : ends[begin - 1], ends[end - 1]); });
  }

 private:
  // A block's rows, shrunk: [rows, sum_of_ranks], the ranks of (term, part) one after the other.
  struct Pair {
    const SlotWeights* weights;
    const SegmentedGemmPart* part;
    const SlotTerm* term;
    int64_t first_rank;  // in the block's rows
    int64_t ranks;
    const T* a;    // [ranks, in]
    const T* b_t;  // [ranks, columns of the part]
  };
  template <typename Fn>
  void ForEachPair(const RowBlock& block, const Fn& fn) const {
    int64_t rank = 0;
    for (int32_t t = block.first_term; t < block.end_term; ++t) {
      const SlotTerm& term = args_.rows.terms[t];
      for (const SegmentedGemmPart& part : args_.parts) {
        const SlotWeights& w = part.slots[term.slot];
        if (!w.adds() || part.columns == 0) continue;
        const int64_t ranks = w.ranks_of_a_row();
        const int64_t first = w.routes() ? 0 : int64_t{term.expert} * w.rank;  // row of the slot's A and B^T
        fn(Pair{&w, &part, &term, rank, ranks, reinterpret_cast<const T*>(w.a) + first * in_,
                reinterpret_cast<const T*>(w.b_t) + first * part.columns});
        rank += ranks;
      }
    }
  }
  // [part->columns] what replaces the base's bias, if no later term touches the part: of a composition, it waits for
  // all factors.
  const float* BiasAfter(const RowBlock& block, const Pair& pair) const {
    const SegmentedGemmPart& part = *pair.part;
    int32_t t = static_cast<int32_t>(pair.term - args_.rows.terms.data());
    const auto weights = [&](int32_t term) -> const SlotWeights& { return part.slots[args_.rows.terms[term].slot]; };
    for (int32_t later = t + 1; later < block.end_term; ++later) {
      if (weights(later).adds()) return nullptr;
    }
    const float* bias = nullptr;
    for (; bias == nullptr && t >= block.first_term; --t) bias = weights(t).bias;
    return bias;
  }

  void CutIntoBlocks(int64_t threads) {
    const RowSegments& rows = args_.rows;
    int64_t adapted = 0;
    for (int64_t g = 0; g < rows.groups(); ++g) {
      if (rows.term_starts[g + 1] > rows.term_starts[g]) adapted += rows.starts[g + 1] - rows.starts[g];
    }
    const int64_t size = std::clamp<int64_t>((adapted + threads - 1) / threads, 1, kRowsPerBlock);
    blocks_.reserve(static_cast<size_t>(rows.groups() + adapted / size));
    for (int64_t g = 0; g < rows.groups(); ++g) {
      RowBlock block = {0, 0, rows.term_starts[g], rows.term_starts[g + 1], 0, 0};
      int64_t per_row = 0;
      ForEachPair(block, [&](const Pair& pair) {
        block.sum_of_ranks += pair.ranks;
        per_row += pair.ranks * in_ + (pair.ranks + 1) * pair.part->columns;
      });
      if (per_row == 0) continue;
      for (int64_t r = rows.starts[g]; r < rows.starts[g + 1]; r += size) {
        block.first_row = r;
        block.rows = std::min<int64_t>(size, rows.starts[g + 1] - r);
        block.products = block.rows * per_row;
        blocks_.push_back(block);
      }
    }
  }

  // The block's rows of x as the dot kernel reads them: x itself or `scratch`.
  const float* Packed(const RowBlock& block, float* scratch, int64_t& stride) const {
    const T* x = RowOfX(block.first_row);
    const bool gathered = !args_.rows.input_rows.empty();
    const bool in_place = IsPacked(x, block.rows, in_);
    if (gathered && block.rows > 1) {
      x = Gathered(block, in_place ? scratch : ThreadScratch(Scratch::kColumns, block.rows * in_));
    }
    const int64_t x_stride = gathered ? in_ : x_stride_;
    if (in_place) {
      stride = x_stride;
      return reinterpret_cast<const float*>(x);
    }
    PackTiles(x, x_stride, block.rows, in_, 0, RowTiles(block.rows), scratch, packed_stride_);
    stride = packed_stride_;
    return scratch;
  }
  const T* Gathered(const RowBlock& block, float* scratch) const {
    T* const rows = reinterpret_cast<T*>(scratch);
    for (int64_t i = 0; i < block.rows; ++i) std::copy_n(RowOfX(block.first_row + i), in_, rows + i * in_);
    return rows;
  }
  int64_t PackedSize(const RowBlock& block) const {
    const bool where_they_are = args_.rows.input_rows.empty() || block.rows == 1;
    return where_they_are && IsPacked(x_, block.rows, in_) ? 0 : block.rows * packed_stride_;
  }

  void Shrink(const RowBlock& block, const Pair& pair, const float* x, int64_t x_stride, int64_t first_rank,
              int64_t ranks, float* h) const {
    if (ranks == 0) return;
    const DotArgs dot = {x, x_stride, block.rows, in_, ranks, in_, block.sum_of_ranks};
    Dot(dot, pair.a + first_rank * in_, h + pair.first_rank + first_rank);
  }
  void Weigh(const RowBlock& block, const Pair& pair, float* h) const {
    if (!pair.weights->routes() || pair.ranks == 0) return;
    float* const rows = ThreadScratch(Scratch::kColumns, block.rows * in_);
    for (int64_t i = 0; i < block.rows; ++i) WidenRow(RowOfX(block.first_row + i), in_, rows + i * in_);
    WeighExperts(*pair.weights, rows, block.rows, in_, h + pair.first_rank, block.sum_of_ranks);
  }
  const T* RowOfX(int64_t row) const {
    return x_ + (args_.rows.input_rows.empty() ? row : args_.rows.input_rows[row]) * x_stride_;
  }
  static void WidenRow(const T* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = Widen(from[i]);
  }

  void ExpandInto(const RowBlock& block, const Pair& pair, const float* h, int64_t first_column,
                  int64_t columns) const {
    const SlotWeights& w = *pair.weights;
    const ExpandArgs expand = {
        .h = h + pair.first_rank,
        .h_stride = block.sum_of_ranks,
        .rows = block.rows,
        .rank = pair.ranks,
        .b_stride = pair.part->columns,
        .columns = columns,
        .y_stride = y_stride_,
        .scale = pair.term->scale * w.scale,
        .terms = ColumnTerms(w, BiasAfter(block, pair), pair.part->columns, *pair.term, first_column, columns)};
    Expand(expand, pair.b_t + first_column, y_ + block.first_row * y_stride_ + pair.part->first_column + first_column);
  }

  // Several blocks shrink before they expand: the processor need not wait for the sums of one.
  void RunBlocks(size_t begin, size_t end) const {
    while (begin < end) {
      int64_t sums = 0, x_floats = 0;
      size_t stop = begin;
      for (; stop < end && (stop == begin || sums < kSumsAtOnce); ++stop) {
        sums += blocks_[stop].rows * blocks_[stop].sum_of_ranks;
        x_floats = std::max(x_floats, PackedSize(blocks_[stop]));
      }
      float* scratch = ThreadScratch(Scratch::kRows, x_floats);
      float* const first_h = ThreadScratch(Scratch::kSums, sums);
      float* h = first_h;
      for (size_t i = begin; i < stop; ++i) {
        const RowBlock& block = blocks_[i];
        int64_t x_stride = 0;
        const float* x = Packed(block, scratch, x_stride);
        ForEachPair(block, [&](const Pair& pair) {
          Shrink(block, pair, x, x_stride, 0, pair.ranks, h);
          Weigh(block, pair, h);
        });
        h += block.rows * block.sum_of_ranks;
      }
      h = first_h;
      for (size_t i = begin; i < stop; ++i) {
        const RowBlock& block = blocks_[i];
        ForEachPair(block, [&](const Pair& pair) { ExpandInto(block, pair, h, 0, pair.part->columns); });
        h += block.rows * block.sum_of_ranks;
      }
      begin = stop;
    }
  }

  // When one block would hold up the rest: all threads share the ranks of every block, then its columns.
  void RunInTwoPhases() {
    struct Work {
      int64_t block;
      Pair pair;
      int64_t first;
      int64_t count;
    };
    std::vector<Work> shrinks, routed;
    struct Columns {
      int64_t block;
      int64_t first;
    };
    std::vector<Columns> expands;
    std::vector<int64_t> x_offsets, h_offsets;
    int64_t x_floats = 0, h_floats = 0;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const RowBlock& block = blocks_[i];
      x_offsets.push_back(x_floats);
      h_offsets.push_back(h_floats);
      x_floats += PackedSize(block);
      h_floats += block.rows * block.sum_of_ranks;
      int64_t end = 0;
      ForEachPair(block, [&](const Pair& pair) {
        for (int64_t first = 0; first < pair.ranks; first += kRanksPerTask) {
          shrinks.push_back({static_cast<int64_t>(i), pair, first, std::min(kRanksPerTask, pair.ranks - first)});
        }
        if (pair.weights->routes()) routed.push_back({static_cast<int64_t>(i), pair, 0, pair.ranks});
        end = std::max(end, pair.part->first_column + pair.part->columns);
      });
      for (int64_t first = 0; first < end; first += kColumnsPerTask)
        expands.push_back({static_cast<int64_t>(i), first});
    }
    float* packed = ThreadScratch(Scratch::kRows, x_floats);
    float* h = ThreadScratch(Scratch::kSums, h_floats);
    std::vector<const float*> x(blocks_.size());
    int64_t stride = 0;
    for (size_t i = 0; i < blocks_.size(); ++i) x[i] = Packed(blocks_[i], packed + x_offsets[i], stride);
    ParallelTasks(static_cast<int64_t>(shrinks.size()), [&](int64_t i) {
      const Work& work = shrinks[i];
      Shrink(blocks_[work.block], work.pair, x[work.block], stride, work.first, work.count, h + h_offsets[work.block]);
    });
    if (!routed.empty()) {
      ParallelTasks(std::ssize(routed), [&](int64_t i) {
        Weigh(blocks_[routed[i].block], routed[i].pair, h + h_offsets[routed[i].block]);
      });
    }
    ParallelTasks(static_cast<int64_t>(expands.size()), [&](int64_t i) {
      const RowBlock& block = blocks_[expands[i].block];
      ForEachPair(block, [&](const Pair& pair) {
        const int64_t begin = std::max(expands[i].first - pair.part->first_column, int64_t{0});
        const int64_t end = std::min(expands[i].first + kColumnsPerTask - pair.part->first_column, pair.part->columns);
        if (begin < end) ExpandInto(block, pair, h + h_offsets[expands[i].block], begin, end - begin);
      });
    });
  }

  const SegmentedGemmArgs& args_;
  const int64_t in_;
  const int64_t x_stride_;
  const int64_t y_stride_;
  const T* const x_;
  T* const y_;
  const int64_t packed_stride_;
  std::vector<RowBlock> blocks_;
};

}  // namespace

absl::Status SegmentedGemm(const SegmentedGemmArgs& args) {
  if (args.x.scalar_type() == at::kFloat) {
    Job<float>(args).Run();
  } else {
    Job<uint16_t>(args).Run();
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
