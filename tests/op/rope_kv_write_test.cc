#include "model/ops/rope_kv_write.h"

#include "model/ops/cpu/parallel.h"
#include "tests/op/kv_testing.h"

namespace lorad {
namespace {

struct Problem {
  int64_t heads, kv_heads, head_dim, rotary_dim;
  at::Tensor qkv, cos, sin, q_norm, k_norm, positions, kv_slots;
  std::vector<int32_t> position_values, slot_values;
  TestCache cache;

  enum class Norms { kNone, kNarrow, kWide };  // of the weights: the rows' dtype, or f32

  Problem(at::ScalarType dtype, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t rotary_dim, Norms norms,
          int64_t rows)
      : heads(heads),
        kv_heads(kv_heads),
        head_dim(head_dim),
        rotary_dim(rotary_dim),
        cache(dtype, 3, kv_heads, head_dim, 8) {
    Numbers numbers(static_cast<uint64_t>(head_dim * 10 + rows));
    qkv = Random(dtype, {rows, (heads + 2 * kv_heads) * head_dim}, numbers, 2.0f);
    cos = Random(dtype, {100, rotary_dim / 2}, numbers);
    sin = Random(dtype, {100, rotary_dim / 2}, numbers);
    if (norms != Norms::kNone) {
      q_norm = Random(norms == Norms::kWide ? at::kFloat : dtype, {head_dim}, numbers);
      k_norm = Random(norms == Norms::kWide ? at::kFloat : dtype, {head_dim}, numbers);
    }
    for (int64_t r = 0; r < rows; ++r) {
      position_values.push_back(static_cast<int32_t>(numbers.Below(100)));
      slot_values.push_back(cache.Block(7 - r / 16) * static_cast<int32_t>(kKvBlockTokens) +
                            static_cast<int32_t>((r * 5) % 16));
    }
    positions = Ints(position_values);
    kv_slots = Ints(slot_values);
  }
  absl::Status Run(int64_t layer = 1) {
    return RopeKvWrite(
        {qkv, heads, kv_heads, head_dim, positions, cos, sin, q_norm, k_norm, 1e-6, kv_slots, layer, cache.view()});
  }
  // One head of one row of `before`, normed and rotated.
  std::vector<double> Rotated(const at::Tensor& before, int64_t row, int64_t column, const at::Tensor& norm) const {
    const at::ScalarType dtype = qkv.scalar_type();
    std::vector<double> head;
    double squares = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
      head.push_back(At(before, row * before.size(1) + column + i));
      squares += head.back() * head.back();
    }
    for (int64_t i = 0; norm.defined() && i < head_dim; ++i) {
      const double normed = head[i] / std::sqrt(squares / static_cast<double>(head_dim) + 1e-6);
      head[i] = RoundTo(dtype, RoundTo(norm.scalar_type(), static_cast<float>(normed)) * At(norm, i));
    }
    std::vector<double> out = head;
    const int64_t half = rotary_dim / 2, at = position_values[row] * half;
    for (int64_t i = 0; i < half; ++i) {
      out[i] = head[i] * At(cos, at + i) - head[i + half] * At(sin, at + i);
      out[i + half] = head[i + half] * At(cos, at + i) + head[i] * At(sin, at + i);
    }
    return out;
  }
};

class RopeKvWriteTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override { cpu::SetComputeThreads(2); }
};

TEST_P(RopeKvWriteTest, EqualsTheLoop) {
  const double near = 4 * Epsilon(GetParam());
  for (const auto& [heads, kv_heads, head_dim, rotary_dim] : std::vector<std::array<int64_t, 4>>{
           {4, 2, 64, 64}, {3, 1, 8, 8}, {2, 2, 20, 12}, {8, 2, 128, 64}, {1, 1, 4, 2}}) {
    for (const Problem::Norms norms : {Problem::Norms::kNone, Problem::Norms::kNarrow, Problem::Norms::kWide}) {
      Problem p(GetParam(), heads, kv_heads, head_dim, rotary_dim, norms, 70);
      const at::Tensor before = p.qkv.clone();
      ASSERT_OK(p.Run());
      for (int64_t r = 0; r < 70; ++r) {
        for (int64_t h = 0; h < heads; ++h) {
          const std::vector<double> q = p.Rotated(before, r, h * head_dim, p.q_norm);
          for (int64_t i = 0; i < head_dim; ++i)
            ASSERT_NEAR(At(p.qkv, r * before.size(1) + h * head_dim + i), q[i], near * (1 + std::abs(q[i])));
        }
        const int32_t block = p.slot_values[r] / 16, token = p.slot_values[r] % 16;
        for (int64_t h = 0; h < kv_heads; ++h) {
          const int64_t k_column = (heads + h) * head_dim, v_column = k_column + kv_heads * head_dim;
          const std::vector<double> k = p.Rotated(before, r, k_column, p.k_norm);
          for (int64_t i = 0; i < head_dim; ++i) {
            ASSERT_NEAR(p.cache.Get(block, 1, false, h, token, i), k[i], near * (1 + std::abs(k[i])));
            ASSERT_EQ(p.cache.Get(block, 1, true, h, token, i), At(before, r * before.size(1) + v_column + i));
          }
        }
      }
    }
  }
}

TEST_P(RopeKvWriteTest, WritesNothingElse) {
  Problem p(GetParam(), 2, 1, 16, 16, Problem::Norms::kNone, 3);
  ASSERT_OK(p.Run(2));
  for (int64_t b = 0; b < 8; ++b) {
    for (int64_t layer = 0; layer < 3; ++layer) {
      for (int64_t token = 0; token < 16; ++token) {
        const bool written = layer == 2 && b == 7 && (token == 0 || token == 5 || token == 10);
        EXPECT_EQ(std::isnan(p.cache.Get(p.cache.Block(b), layer, false, 0, token, 3)), !written);
        EXPECT_EQ(std::isnan(p.cache.Get(p.cache.Block(b), layer, true, 0, token, 3)), !written);
      }
    }
  }
}

TEST_P(RopeKvWriteTest, NamesTheBadArgument) {
  Problem p(GetParam(), 2, 1, 16, 16, Problem::Norms::kNone, 3);
  EXPECT_INVALID(p.Run(3), "layer: 3; limit: below 3");
  p.positions = Ints({0, 100, 1});
  EXPECT_INVALID(p.Run(), "positions: 100 in row 1; limit: 0 to 99");
  p.positions = Ints({0, 1});
  EXPECT_INVALID(p.Run(), "positions: [2]");
  p.positions = Ints({0, 1, 2});
  p.kv_slots = Ints({0, -1, 2});
  EXPECT_INVALID(p.Run(), "kv_slots: -1 in row 1");
  p.heads = 3;
  EXPECT_INVALID(p.Run(), "qkv: [3, 64]");
}

INSTANTIATE_TEST_SUITE_P(Cpu, RopeKvWriteTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
