#include "adapters/ops/segmented_gemm.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

class SegmentedEmbeddingTest : public testing::TestWithParam<at::ScalarType> {};

TEST_P(SegmentedEmbeddingTest, AddsTheColumnsOfAAndLeavesBaseRows) {
  constexpr int64_t kVocab = 50, kColumns = 37;
  Numbers numbers(1);
  std::vector<at::Tensor> a, b_t;
  std::vector<SlotWeights> slots;
  for (int32_t rank : {4, 0, 65}) {
    a.push_back(Random(GetParam(), {rank, kVocab}, numbers, 0.2f));
    b_t.push_back(Random(GetParam(), {rank, kColumns}, numbers));
    slots.push_back({static_cast<const std::byte*>(a.back().const_data_ptr()),
                     static_cast<const std::byte*>(b_t.back().const_data_ptr()), rank, 1.5f});
  }
  const RowSegments rows = {
      {0, 2, 3, 23, 24, 24}, {0, 1, 1, 3, 4, 5}, {{0, 1.0f}, {2, 0.5f}, {0, 1.0f}, {1, 1.0f}, {2, 1.0f}}};
  std::vector<int32_t> ids;
  for (int64_t r = 0; r < 24; ++r) ids.push_back(static_cast<int32_t>(numbers.Below(kVocab)));
  at::Tensor y = Random(GetParam(), {24, kColumns}, numbers);
  const at::Tensor before = y.clone();
  std::vector<double> expected;
  for (int64_t i = 0; i < y.numel(); ++i) expected.push_back(At(y, i));
  for (int64_t g = 0; g < rows.groups(); ++g)
    for (int64_t r = rows.starts[g]; r < rows.starts[g + 1]; ++r)
      for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t)
        for (int64_t c = 0; c < kColumns; ++c) {
          const SlotTerm& term = rows.terms[t];
          float sum = 0;
          for (int32_t j = 0; j < slots[term.slot].rank; ++j)
            sum += At(a[term.slot], j * kVocab + ids[r]) * At(b_t[term.slot], j * kColumns + c);
          double& v = expected[r * kColumns + c];
          v = RoundTo(GetParam(), static_cast<float>(v + term.scale * 1.5f * sum));
        }
  ASSERT_OK(SegmentedEmbedding({Ints(ids), y, slots.data(), 3, kVocab, rows}));
  ExpectClose(y, expected, 2 * Epsilon(GetParam()), 2 * Epsilon(GetParam()));
  EXPECT_EQ(RowBytes(y, 2), RowBytes(before, 2));
  EXPECT_EQ(RowBytes(y, 23), RowBytes(before, 23));
}

TEST_P(SegmentedEmbeddingTest, RefusesAnIdOutsideTheVocabularyInAdaptedRowsOnly) {
  Numbers numbers(2);
  const at::Tensor a = Random(GetParam(), {2, 10}, numbers), b_t = Random(GetParam(), {2, 8}, numbers);
  const SlotWeights slot = {static_cast<const std::byte*>(a.const_data_ptr()),
                            static_cast<const std::byte*>(b_t.const_data_ptr()), 2, 1.0f};
  const RowSegments rows = {{0, 1, 2}, {0, 0, 1}, {{0, 1.0f}}};
  at::Tensor y = Random(GetParam(), {2, 8}, numbers);
  EXPECT_OK(SegmentedEmbedding({Ints({10, 9}), y, &slot, 1, 10, rows}));
  EXPECT_INVALID(SegmentedEmbedding({Ints({0, 10}), y, &slot, 1, 10, rows}), "ids: 10 in row 1; limit: 0 to 9");
  EXPECT_INVALID(SegmentedEmbedding({Ints({0, -1}), y, &slot, 1, 10, rows}), "ids: -1 in row 1");
  EXPECT_INVALID(SegmentedEmbedding({Ints({0}), y, &slot, 1, 10, rows}), "y: ");
}

TEST_P(SegmentedEmbeddingTest, NamesASlotOfSeveralExpertsOrWithARouter) {
  Numbers numbers(3);
  const at::Tensor a = Random(GetParam(), {4, 10}, numbers), b_t = Random(GetParam(), {4, 8}, numbers);
  const float router[10] = {};
  SlotWeights slot = {static_cast<const std::byte*>(a.const_data_ptr()),
                      static_cast<const std::byte*>(b_t.const_data_ptr()), 2, 1.0f};
  RowSegments rows = {{0, 1}, {0, 1}, {{0, 1.0f}}};
  at::Tensor y = Random(GetParam(), {1, 8}, numbers);
  slot.experts = 2;
  EXPECT_INVALID(SegmentedEmbedding({Ints({0}), y, &slot, 1, 10, rows}), "slots: 2 experts in slot 0; limit: 1");
  slot.experts = 1;
  slot.router = router;
  EXPECT_INVALID(SegmentedEmbedding({Ints({0}), y, &slot, 1, 10, rows}), "slots: a router in slot 0; limit: none");
  slot.router = nullptr;
  rows.terms[0].expert = 1;
  EXPECT_INVALID(SegmentedEmbedding({Ints({0}), y, &slot, 1, 10, rows}), "rows.terms: expert 1; limit: 0 to 0");
  rows.terms[0].expert = 0;
  EXPECT_OK(SegmentedEmbedding({Ints({0}), y, &slot, 1, 10, rows}));
}

INSTANTIATE_TEST_SUITE_P(Cpu, SegmentedEmbeddingTest, testing::Values(at::kFloat, at::kBFloat16), DTypeName);

}  // namespace
}  // namespace lorad
