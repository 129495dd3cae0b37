#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "model/ops/cuda/upload.h"
#include "model/ops/cuda_ops.h"
#include "tests/op/kv_testing.h"

// What the CUDA forms do with values that the CPU forms refuse, and that no host looks at (model/ops/cuda_ops.h).
namespace lorad {
namespace {

class RefusedValuesTest : public testing::TestWithParam<at::ScalarType> {};

// Rows 0 and 1 of one sequence, 2 and 3 of another; two blocks of KV for each.
struct Attention {
  static constexpr int64_t kHeads = 2, kHeadDim = 8, kTokens = 16, kRows = 4;
  TestCache cache;
  at::Tensor q, positions, cu_rows, block_table;
  int64_t window_tokens = 0;

  explicit Attention(at::ScalarType dtype) : cache(dtype, 1, 1, kHeadDim, 4) {
    Numbers numbers(1);
    for (int64_t b = 0; b < 4; ++b) {
      for (int64_t i = 0; i < kTokens * kHeadDim; ++i) {
        for (const bool value : {false, true}) {
          cache.Set(cache.Block(b), 0, value, 0, i / kHeadDim, i % kHeadDim, numbers.Uniform(-1, 1));
        }
      }
    }
    q = Random(dtype, {kRows, kHeads * kHeadDim}, numbers);
    positions = Ints({20, 21, 30, 31});
    cu_rows = Ints({0, 2, 4});
    block_table = Table(0, 1, 2, 3);
  }
  // Numbers of the cache's blocks; -1 stays.
  at::Tensor Table(int64_t a, int64_t b, int64_t c, int64_t d) const {
    std::vector<int32_t> blocks;
    for (const int64_t i : {a, b, c, d}) blocks.push_back(i < 0 ? -1 : cache.Block(i));
    return Ints(blocks, {2, 2});
  }
  at::Tensor Run() const {
    at::Tensor y = at::empty({kRows, kHeads * kHeadDim}, q.options());
    EXPECT_OK(cuda::PagedAttention(
        {q, kHeads, positions, cu_rows, block_table, 0, window_tokens, 0.3, 0.0, cache.view(), y}));
    return y;
  }
};

// NaN in these rows, and in the others what `good` has.
void ExpectNanRows(const at::Tensor& y, const std::set<int64_t>& nan, const at::Tensor& good) {
  for (int64_t r = 0; r < y.size(0); ++r) {
    if (!nan.contains(r)) {
      EXPECT_EQ(RowBytes(y, r), RowBytes(good, r)) << "row " << r;
      continue;
    }
    for (int64_t i = 0; i < y.size(1); ++i) EXPECT_TRUE(std::isnan(At(y, r * y.size(1) + i))) << "row " << r;
  }
}

TEST_P(RefusedValuesTest, APositionOutsideOfTheBlockTableMakesTheRowNan) {
  const at::Tensor good = Attention(GetParam()).Run();
  ExpectNanRows(good, {}, good);
  for (const int32_t outside : {-1, 32, 40, std::numeric_limits<int32_t>::max()}) {
    for (const int64_t row : {1, 3}) {
      Attention a(GetParam());
      static_cast<int32_t*>(a.positions.mutable_data_ptr())[row] = outside;
      ExpectNanRows(a.Run(), {row}, good);
    }
  }
}

TEST_P(RefusedValuesTest, AMissingBlockMakesTheRowsThatNeedItNan) {
  for (const int64_t window : {0, 4}) {
    Attention a(GetParam());
    a.window_tokens = window;
    const at::Tensor good = a.Run();
    a.block_table = a.Table(0, -1, 2, 3);
    ExpectNanRows(a.Run(), {0, 1}, good);
    a.block_table = a.Table(0, 1, -1, 3);  // a window of 4 ends before it
    ExpectNanRows(a.Run(), window == 0 ? std::set<int64_t>{2, 3} : std::set<int64_t>{}, good);
  }
}

TEST_P(RefusedValuesTest, ARowOfNoSequenceIsNan) {
  const at::Tensor good = Attention(GetParam()).Run();
  Attention a(GetParam());
  a.cu_rows = Ints({0, 2, 3});
  ExpectNanRows(a.Run(), {3}, good);
  a.cu_rows = Ints({1, 2, 4});
  ExpectNanRows(a.Run(), {0}, good);
  a.cu_rows = Ints({0});
  a.block_table = at::empty({0, 2}, a.cu_rows.options());
  ExpectNanRows(a.Run(), {0, 1, 2, 3}, good);
}

TEST_P(RefusedValuesTest, APositionOutsideOfTheRopeTableLeavesTheSlotAlone) {
  constexpr int64_t kHeadDim = 8;
  Numbers numbers(2);
  TestCache cache(GetParam(), 1, 1, kHeadDim, 1);
  for (int64_t i = 0; i < 16 * kHeadDim; ++i) {
    for (const bool value : {false, true}) cache.Set(0, 0, value, 0, i / kHeadDim, i % kHeadDim, 9.0f);
  }
  at::Tensor qkv = Random(GetParam(), {4, 3 * kHeadDim}, numbers);
  const at::Tensor cos = Random(GetParam(), {10, kHeadDim / 2}, numbers), sin = Random(GetParam(), {10, 4}, numbers);
  const at::Tensor none, positions = Ints({9, 10, -1, 0}), slots = Ints({0, 1, 2, 3});
  EXPECT_OK(cuda::RopeKvWrite({qkv, 1, 1, kHeadDim, positions, cos, sin, none, none, 1e-6, slots, 0, cache.view()}));
  for (int64_t r = 0; r < 4; ++r) {
    const bool refused = r == 1 || r == 2;
    for (int64_t i = 0; i < kHeadDim; ++i) {
      EXPECT_EQ(std::isnan(At(qkv, r * 3 * kHeadDim + i)), refused) << r;
      for (const bool value : {false, true}) EXPECT_EQ(cache.Get(0, 0, value, 0, r, i) == 9.0f, refused) << r;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Emulated, RefusedValuesTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

TEST(UploadTest, NothingIsSentWithoutACopy) {
  cuda::Upload upload;
  const int64_t at = upload.Add(std::vector<int32_t>());
  upload.Send(at::empty({1}));
  EXPECT_EQ(upload.At<int32_t>(at), nullptr);
}

TEST(RefusedDrawsTest, ADrawThatIsNotThereIsNoToken) {
  at::Tensor ids = Ints({TokenOfDraw(1), 4, TokenOfDraw(2), std::numeric_limits<int32_t>::min()});
  EXPECT_OK(cuda::PutDrawnTokens({Ints({5, 6}), ids}));
  const auto* const values = ids.const_data_ptr<int32_t>();
  EXPECT_THAT(std::vector<int32_t>(values, values + 4), testing::ElementsAre(6, 4, -1, -1));
}

// A block's shared memory has room for so many experts.
TEST(TooManyExpertsTest, AreRefusedByName) {
  constexpr int64_t kExperts = 1025;
  const at::Tensor logits = Filled(at::kFloat, {1, kExperts}, [](int64_t) { return 0.0f; });
  at::Tensor experts = Ints({0, 1}, {1, 2}), weights = Filled(at::kFloat, {1, 2}, [](int64_t) { return 0.5f; });
  EXPECT_INVALID(cuda::RouteTopK({logits, true, experts, weights}), "logits: 1025 experts; limit: 1024 on CUDA");
  const DealtRows dealt = DealtRows::Empty(1, 2, kExperts, at::kCPU);
  EXPECT_INVALID(cuda::DealToExperts({experts, weights, dealt}), "starts: 1025 experts; limit: 1024 on CUDA");
}

}  // namespace
}  // namespace lorad
