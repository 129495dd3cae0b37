// An adapter's own rows of an embedding or a head, against a loop; other rows of the step keep every bit.
#include "adapters/ops/replaced_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/op/op_testing.h"

namespace lorad {
namespace {

constexpr int64_t kVocab = 37, kWidth = 20, kRows = 11;

// Slot 0 replaces nothing, slot 1 three tokens, slot 2 the first 30.
class ReplacedRowsTest : public testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    own_[1] = Draw({3, kWidth});
    own_[2] = Draw({30, kWidth});
    slots_[1] = {.rows = Bytes(own_[1]), .row_ids = ids_.data(), .num_rows = 3, .width = kWidth};
    slots_[2] = {.rows = Bytes(own_[2]), .num_rows = 30, .width = kWidth};
    segments_.starts = {0, 2, 5, 6, 8, 11};
    segments_.term_starts = {0, 0, 1, 2, 3, 4};
    segments_.terms = {{1, 1.0f}, {0, 1.0f}, {2, 0.5f}, {1, 1.0f}};
  }
  at::Tensor Draw(std::vector<int64_t> shape) { return Random(GetParam(), std::move(shape), numbers_); }
  static const std::byte* Bytes(const at::Tensor& t) { return static_cast<const std::byte*>(t.const_data_ptr()); }
  // The slot of each row; 0: the base.
  static constexpr int kSlotOf[kRows] = {0, 0, 1, 1, 1, 0, 2, 2, 1, 1, 1};
  // Which of the slot's rows stands for a token; -1: none.
  int64_t OwnRow(int slot, int64_t token) const {
    if (slot == 2) return token < 30 ? token : -1;
    for (int64_t i = 0; slot == 1 && i < 3; ++i) {
      if (ids_[static_cast<size_t>(i)] == token) return i;
    }
    return -1;
  }

  Numbers numbers_{7};
  const std::vector<int32_t> ids_ = {4, 9, 36};
  at::Tensor own_[3];
  std::vector<SlotWeights> slots_ = std::vector<SlotWeights>(3);
  RowSegments segments_;
};

TEST_P(ReplacedRowsTest, AnEmbeddingGivesTheAdaptersRowOfAToken) {
  const at::Tensor tokens = Ints({4, 0, 4, 9, 5, 36, 0, 36, 36, 10, 4});
  const at::Tensor before = Draw({kRows, kWidth});
  at::Tensor y = before.clone();
  EXPECT_OK(ReplaceEmbeddingRows({tokens, y, slots_.data(), 3, segments_}));
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t row = OwnRow(kSlotOf[r], tokens.const_data_ptr<int32_t>()[r]);
    const at::Tensor& from = row < 0 ? before : own_[kSlotOf[r]];
    EXPECT_EQ(RowBytes(y, r), RowBytes(from, row < 0 ? r : row)) << "row " << r;
  }
}

TEST_P(ReplacedRowsTest, AHeadGivesTheProductWithTheAdaptersRow) {
  const at::Tensor x = Draw({kRows, kWidth});
  const at::Tensor before = Draw({kRows, kVocab + 3});
  at::Tensor wide = before.clone();
  at::Tensor y = wide.narrow(1, 1, kVocab);  // strided
  EXPECT_OK(ReplaceHeadRows({x, y, slots_.data(), 3, segments_}));
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t token = 0; token < kVocab; ++token) {
      const int64_t row = OwnRow(kSlotOf[r], token);
      double expected = 0.0;
      for (int64_t k = 0; row >= 0 && k < kWidth; ++k) {
        expected += At(x, r * kWidth + k) * At(own_[kSlotOf[r]], row * kWidth + k);
      }
      const int64_t at = r * (kVocab + 3) + token + 1;
      if (row < 0) {
        EXPECT_EQ(At(wide, at), At(before, at));
      } else {
        EXPECT_NEAR(At(wide, at), expected, 1e-5 + 2 * Epsilon(GetParam()) * std::abs(expected));
      }
    }
  }
}

TEST_P(ReplacedRowsTest, ARowHasTheSameBitsAlone) {
  const at::Tensor x = Draw({kRows, kWidth});
  at::Tensor all = Draw({kRows, kVocab});
  at::Tensor alone = all.narrow(0, 9, 1).clone();
  EXPECT_OK(ReplaceHeadRows({x, all, slots_.data(), 3, segments_}));
  const RowSegments one = {.starts = {0, 1}, .term_starts = {0, 1}, .terms = {{1, 1.0f}}};
  EXPECT_OK(ReplaceHeadRows({x.narrow(0, 9, 1), alone, slots_.data(), 3, one}));
  EXPECT_EQ(RowBytes(all, 9), RowBytes(alone, 0));
}

TEST_P(ReplacedRowsTest, RowsOfAnotherWidthAreAnError) {
  slots_[1].width = kWidth + 1;
  const at::Tensor x = Draw({kRows, kWidth});
  at::Tensor y = Draw({kRows, kVocab});
  EXPECT_EQ(ReplaceHeadRows({x, y, slots_.data(), 3, segments_}).code(), absl::StatusCode::kInvalidArgument);
  at::Tensor narrow = Draw({kRows, 20});
  slots_[1].width = kWidth;
  EXPECT_EQ(ReplaceHeadRows({x, narrow, slots_.data(), 3, segments_}).code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Cpu, ReplacedRowsTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
