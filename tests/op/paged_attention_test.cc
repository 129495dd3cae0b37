#include "model/ops/paged_attention.h"

#include "model/ops/cpu/parallel.h"
#include "tests/op/kv_testing.h"

namespace lorad {
namespace {

// A sequence of the batch: `rows` rows, the last at position context - 1.
struct Sequence {
  int64_t context;
  int64_t rows;
};
struct Shape {
  int64_t heads, kv_heads, head_dim, window;
  std::vector<Sequence> sequences;
};

struct Problem {
  Shape shape;
  int64_t rows = 0, table_columns = 0;
  at::Tensor q, positions, cu_rows, block_table, y;
  std::vector<int32_t> row_sequence, position_values, cu_values, table;
  std::unique_ptr<TestCache> cache;
  double scale = 0.3;
  double softcap = 0;

  Problem(at::ScalarType dtype, Shape s, uint64_t seed) : shape(std::move(s)) {
    Numbers numbers(seed);
    cu_values.push_back(0);
    int64_t blocks = 0;
    for (const Sequence& seq : shape.sequences) {
      for (int64_t i = 0; i < seq.rows; ++i)
        position_values.push_back(static_cast<int32_t>(seq.context - seq.rows + i));
      row_sequence.resize(position_values.size(), static_cast<int32_t>(cu_values.size()) - 1);
      cu_values.push_back(static_cast<int32_t>(position_values.size()));
      table_columns = std::max(table_columns, (seq.context + 15) / 16);
      blocks += (seq.context + 15) / 16;
    }
    rows = static_cast<int64_t>(position_values.size());
    cache = std::make_unique<TestCache>(dtype, 2, shape.kv_heads, shape.head_dim, blocks);
    table.assign(shape.sequences.size() * static_cast<size_t>(table_columns), -1);
    int64_t next = blocks;  // scattered: the last block first
    for (size_t i = 0; i < shape.sequences.size(); ++i) {
      for (int64_t t = 0; t < shape.sequences[i].context; ++t) {
        int32_t& block = table[i * static_cast<size_t>(table_columns) + static_cast<size_t>(t / 16)];
        if (t % 16 == 0) block = cache->Block(--next);
        for (int64_t h = 0; h < shape.kv_heads; ++h) {
          for (int64_t d = 0; d < shape.head_dim; ++d) {
            cache->Set(block, 1, false, h, t % 16, d, numbers.Uniform(-1, 1));
            cache->Set(block, 1, true, h, t % 16, d, numbers.Uniform(-1, 1));
          }
        }
      }
    }
    q = Random(dtype, {rows, (shape.heads + 2 * shape.kv_heads) * shape.head_dim}, numbers, 2.0f);
    y = at::empty({rows, shape.heads * shape.head_dim}, q.options());
    positions = Ints(position_values);
    cu_rows = Ints(cu_values);
    block_table = Ints(table, {static_cast<int64_t>(shape.sequences.size()), table_columns});
  }
  absl::Status Run() {
    return PagedAttention(
        {q, shape.heads, positions, cu_rows, block_table, 1, shape.window, scale, softcap, cache->view(), y});
  }
  std::vector<double> Expected() const {
    std::vector<double> out;
    const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t* blocks = table.data() + row_sequence[r] * table_columns;
      const int64_t p = position_values[r], first = shape.window > 0 ? std::max<int64_t>(0, p - shape.window + 1) : 0;
      for (int64_t h = 0; h < shape.heads; ++h) {
        std::vector<double> scores;
        double max = -1e30, total = 0;
        for (int64_t j = first; j <= p; ++j) {
          double s = 0;
          for (int64_t i = 0; i < d; ++i)
            s += At(q, r * q.size(1) + h * d + i) * cache->Get(blocks[j / 16], 1, false, h / group, j % 16, i);
          scores.push_back(softcap > 0 ? softcap * std::tanh(s * scale / softcap) : s * scale);
          max = std::max(max, scores.back());
        }
        for (double& s : scores) total += (s = std::exp(s - max));
        for (int64_t i = 0; i < d; ++i) {
          double sum = 0;
          for (int64_t j = first; j <= p; ++j)
            sum += scores[j - first] / total * cache->Get(blocks[j / 16], 1, true, h / group, j % 16, i);
          out.push_back(sum);
        }
      }
    }
    return out;
  }
};

class PagedAttentionTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
};

TEST_P(PagedAttentionTest, EqualsTheLoopForDecodeAndPrefillMixed) {
  for (const auto& [heads, kv_heads, head_dim] : std::vector<std::array<int64_t, 3>>{
           {4, 2, 64}, {3, 3, 8}, {8, 1, 20}, {6, 2, 33}, {1, 1, 128}, {2, 1, 1}, {4, 4, 96}}) {
    for (int64_t window : {0, 1, 5, 16, 40}) {
      Problem p(GetParam(),
                {heads,
                 kv_heads,
                 head_dim,
                 window,
                 {{1, 1}, {16, 1}, {17, 1}, {100, 1}, {37, 37}, {90, 50}, {33, 2}, {64, 64}}},
                static_cast<uint64_t>(heads * 1000 + head_dim + window));
      ASSERT_OK(p.Run());
      ExpectClose(p.y, p.Expected(), AttentionTolerance(), 2 * Epsilon(GetParam()));
    }
  }
}

TEST_P(PagedAttentionTest, SoftCapEqualsTheLoopFarIntoTheTanh) {
  for (const auto& [heads, kv_heads, head_dim] :
       std::vector<std::array<int64_t, 3>>{{4, 2, 64}, {3, 3, 20}, {4, 1, 6}}) {
    for (const double scale : {0.05, 1.0, 1000.0}) {
      for (int64_t window : {0, 7}) {
        Problem p(GetParam(), {heads, kv_heads, head_dim, window, {{1, 1}, {17, 1}, {100, 1}, {37, 37}, {90, 21}}}, 3);
        p.scale = scale;
        p.softcap = 2.5;
        ASSERT_OK(p.Run());
        // A large scale magnifies what the sum of a small score lost to cancellation.
        ExpectClose(p.y, p.Expected(), AttentionTolerance() * std::max(1.0, scale / 50), 2 * Epsilon(GetParam()));
      }
    }
  }
}

TEST_P(PagedAttentionTest, AnEmptySequenceAndNoRowsAreFine) {
  Problem p(GetParam(), {2, 1, 16, 0, {{5, 2}, {9, 0}, {3, 1}}}, 2);
  ASSERT_OK(p.Run());
  ExpectClose(p.y, p.Expected(), AttentionTolerance(), 2 * Epsilon(GetParam()));
  Problem none(GetParam(), {2, 1, 16, 0, {{5, 0}}}, 2);
  EXPECT_OK(none.Run());
}

// The same rows as one long prefill, in pieces, and one by one among others.
TEST_P(PagedAttentionTest, ARowHasTheSameBitsInAnyChunkAndBatch) {
  for (int64_t window : {0, 21}) {
    for (const auto& [heads, kv_heads, head_dim] :
         std::vector<std::array<int64_t, 3>>{{4, 2, 64}, {5, 5, 24}, {9, 1, 16}}) {
      Problem all(GetParam(), {heads, kv_heads, head_dim, window, {{150, 150}}}, 9);
      ASSERT_OK(all.Run());
      for (const auto& [context, rows] :
           std::vector<std::array<int64_t, 2>>{{150, 1}, {150, 7}, {90, 33}, {17, 1}, {16, 16}, {1, 1}}) {
        at::Tensor q = all.q.narrow(0, context - rows, rows), y = at::empty({rows, heads * head_dim}, all.q.options());
        ASSERT_OK(PagedAttention({q, heads, all.positions.narrow(0, context - rows, rows),
                                  Ints({0, static_cast<int32_t>(rows)}), all.block_table, 1, window, all.scale,
                                  all.softcap, all.cache->view(), y}));
        for (int64_t r = 0; r < rows; ++r)
          ASSERT_EQ(RowBytes(y, r), RowBytes(all.y, context - rows + r)) << context << " " << rows;
      }
    }
  }
}

TEST_P(PagedAttentionTest, NanKeysOrValuesReachOnlyTheRowsThatSeeThem) {
  for (const auto& [value, softcap] : std::vector<std::pair<bool, double>>{{false, 0}, {true, 0}, {false, 3}}) {
    Problem p(GetParam(), {2, 1, 32, 0, {{40, 40}, {30, 1}}}, 4);
    p.softcap = softcap;
    p.cache->Set(p.table[1], 1, value, 0, 4, 7, std::numeric_limits<float>::quiet_NaN());  // position 20 of the first
    ASSERT_OK(p.Run());
    for (int64_t r = 0; r < 41; ++r) {
      bool any = false;
      for (int64_t i = 0; i < 64; ++i) any = any || std::isnan(At(p.y, r * 64 + i));
      EXPECT_EQ(any, r >= 20 && r < 40) << r;
    }
  }
}

TEST_P(PagedAttentionTest, LargeScoresDoNotOverflow) {
  Problem p(GetParam(), {2, 2, 16, 0, {{50, 50}}}, 5);
  p.scale = 500.0;
  ASSERT_OK(p.Run());
  for (int64_t i = 0; i < p.y.numel(); ++i) ASSERT_LE(std::abs(At(p.y, i)), 1.01f);
}

TEST_P(PagedAttentionTest, NamesTheBadArgument) {
  Problem p(GetParam(), {4, 2, 16, 0, {{20, 2}, {5, 1}}}, 6);
  p.softcap = -1;
  EXPECT_INVALID(p.Run(), "softcap: -1; limit: 0 or more");
  p.softcap = 0;
  p.shape.heads = 3;
  p.y = at::empty({3, 48}, p.q.options());
  EXPECT_INVALID(p.Run(), "num_heads: 3; limit: a multiple of 2");
  p.shape.heads = 4;
  EXPECT_INVALID(p.Run(), "y: [3, 48]");
  p.y = at::empty({3, 64}, p.q.options());
  p.block_table = Ints({p.table[0], -1, p.table[2], -1}, {2, 2});
  EXPECT_INVALID(p.Run(), "block_table: no block 1 of sequence 0");
  p.block_table = Ints({p.table[0], p.table[2]}, {2, 1});
  EXPECT_INVALID(p.Run(), "block_table: 1 blocks; limit: 2 or more");
  p.block_table = Ints(p.table, {2, 2});
  p.positions = Ints({18, 20, 4});
  EXPECT_INVALID(p.Run(), "positions: 20 in row 1");
  p.positions = Ints(p.position_values);
  p.cu_rows = Ints({0, 2, 4});
  EXPECT_INVALID(p.Run(), "cu_rows");
  p.cu_rows = Ints(p.cu_values);
  EXPECT_OK(p.Run());
}

INSTANTIATE_TEST_SUITE_P(Cpu, PagedAttentionTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
