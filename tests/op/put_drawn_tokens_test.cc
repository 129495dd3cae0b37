#include "model/ops/put_drawn_tokens.h"

#include <ATen/ops/full.h>

#include "model/ops/draw_row.h"
#include "tests/op/op_testing.h"

namespace lorad {
namespace {

using testing::ElementsAre;

std::vector<int32_t> ValuesOf(const at::Tensor& ids) {
  const auto* const begin = ids.const_data_ptr<int32_t>();
  return {begin, begin + ids.numel()};
}

TEST(PutDrawnTokensTest, IdsThatNameDrawsBecomeTheirTokensAndOthersStay) {
  at::Tensor ids = Ints({0, TokenOfDraw(3), 7, -1, TokenOfDraw(0), TokenOfDraw(3), 128'255, TokenOfDraw(2)});
  ASSERT_OK(PutDrawnTokens({Ints({11, 12, -1, 14}), ids}));
  EXPECT_THAT(ValuesOf(ids), ElementsAre(0, 14, 7, -1, 11, 14, 128'255, -1));
}

// As the draws lie in what comes back of a step, beside other words of each row.
TEST(PutDrawnTokensTest, DrawsOfAStride) {
  constexpr int64_t kDraws = 300, kWords = 4;
  at::Tensor words = at::full({kDraws, kWords}, 5, at::kInt);
  std::vector<int32_t> naming, expected;
  for (int64_t n = 0; n < kDraws; ++n) {
    words.mutable_data_ptr<int32_t>()[n * kWords] = static_cast<int32_t>(1000 + n);
    naming.push_back(TokenOfDraw(kDraws - 1 - n));
    expected.push_back(static_cast<int32_t>(1000 + kDraws - 1 - n));
  }
  at::Tensor ids = Ints(naming);
  ASSERT_OK(PutDrawnTokens({words.select(1, 0), ids}));
  EXPECT_EQ(ValuesOf(ids), expected);
}

TEST(PutDrawnTokensTest, NoIdsAndNoDraws) {
  at::Tensor none = Ints({}, {0}), ids = Ints({3, -1});
  ASSERT_OK(PutDrawnTokens({Ints({1}), none}));
  ASSERT_OK(PutDrawnTokens({none, ids}));
  EXPECT_THAT(ValuesOf(ids), ElementsAre(3, -1));
}

TEST(PutDrawnTokensTest, NamesTheBadArgument) {
  at::Tensor ids = Ints({1, TokenOfDraw(2)});
  EXPECT_INVALID(PutDrawnTokens({Ints({5, 6}), ids}), "ids: draw 2 at 1; limit: 2 draws");
  EXPECT_INVALID(PutDrawnTokens({at::Tensor(), ids}), "drawn: undefined; limit: [any] Int");
  at::Tensor floats = at::full({2}, 1.0f);
  EXPECT_INVALID(PutDrawnTokens({ids, floats}), "ids: [2] Float; limit: [any] Int");
}

}  // namespace
}  // namespace lorad
