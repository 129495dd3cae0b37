#include <algorithm>

#include "absl/strings/str_cat.h"
#include "adapters/ops/cpu/column_terms.h"
#include "adapters/ops/cpu/expand_kernels.h"
#include "adapters/ops/cpu_ops.h"
#include "model/ops/check_args.h"
#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu/parallel.h"

namespace lorad::cpu {
namespace {

// Rows [begin, end) of segment g.
template <typename T>
void RunRows(const SegmentedEmbeddingArgs& args, int64_t g, int64_t begin, int64_t end) {
  const int32_t* ids = args.ids.const_data_ptr<int32_t>();
  const int64_t columns = args.y.size(1), y_stride = args.y.stride(0);
  T* y = static_cast<T*>(args.y.mutable_data_ptr());
  for (int32_t t = args.rows.term_starts[g]; t < args.rows.term_starts[g + 1]; ++t) {
    const SlotTerm& term = args.rows.terms[t];
    const SlotWeights& w = args.slots[term.slot];
    if (w.rank <= 0) continue;
    const T* a = reinterpret_cast<const T*>(w.a);
    float* h = ThreadScratch(Scratch::kSums, (end - begin) * w.rank);
    for (int64_t r = begin; r < end; ++r)
      for (int64_t j = 0; j < w.rank; ++j) h[(r - begin) * w.rank + j] = Widen(a[j * args.vocab_size + ids[r]]);
    const ExpandArgs expand = {.h = h,
                               .h_stride = w.rank,
                               .rows = end - begin,
                               .rank = w.rank,
                               .b_stride = columns,
                               .columns = columns,
                               .y_stride = y_stride,
                               .scale = term.scale * w.scale,
                               .terms = ColumnTerms(w, nullptr, columns, term, 0, columns)};
    Expand(expand, reinterpret_cast<const T*>(w.b_t), y + begin * y_stride);
  }
}

}  // namespace

absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args) {
  const int32_t* ids = args.ids.const_data_ptr<int32_t>();
  const RowSegments& rows = args.rows;
  struct Block {
    int64_t group, begin, end;
  };
  constexpr int64_t kRowsPerBlock = 16;
  std::vector<Block> blocks;
  int64_t products = 0;
  for (int64_t g = 0; g < rows.groups(); ++g) {
    int64_t ranks = 0;
    for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t) {
      ranks += std::max(0, args.slots[rows.terms[t].slot].rank);
    }
    if (ranks == 0) continue;
    products += ranks * args.y.size(1) * (rows.starts[g + 1] - rows.starts[g]);
    for (int64_t r = rows.starts[g]; r < rows.starts[g + 1]; ++r) {
      if (ids[r] < 0 || ids[r] >= args.vocab_size) {
        return ArgCheck("SegmentedEmbedding")
            .Error("ids", absl::StrCat(ids[r], " in row ", r), absl::StrCat("0 to ", args.vocab_size - 1));
      }
    }
    for (int64_t r = rows.starts[g]; r < rows.starts[g + 1]; r += kRowsPerBlock) {
      blocks.push_back({g, r, std::min<int64_t>(r + kRowsPerBlock, rows.starts[g + 1])});
    }
  }
  const auto run = [&](int64_t i) {
    const Block& block = blocks[i];
    if (args.y.scalar_type() == at::kFloat) {
      RunRows<float>(args, block.group, block.begin, block.end);
    } else {
      RunRows<uint16_t>(args, block.group, block.begin, block.end);
    }
  };
  constexpr int64_t kProductsOfOneThread = 1 << 16;
  if (products <= kProductsOfOneThread) {
    for (size_t i = 0; i < blocks.size(); ++i) run(static_cast<int64_t>(i));
  } else {
    ParallelTasks(static_cast<int64_t>(blocks.size()), run);
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
