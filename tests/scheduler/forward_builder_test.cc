#include "scheduler/forward_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ops/tensor.h>

#include "adapters/invocation.h"
#include "model/ops/draw_row.h"

namespace lorad {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Values(const at::Tensor& tensor) {
  EXPECT_EQ(tensor.scalar_type(), at::kInt);
  const int32_t* const data = tensor.const_data_ptr<int32_t>();
  return {data, data + tensor.numel()};
}

// Rows over token lists that outlive them.
class ForwardBuilderTest : public ::testing::Test {
 protected:
  ExecRow Row(int64_t first_position, int64_t tokens, std::vector<int32_t> blocks, int32_t slot, bool sample = true) {
    ExecRow row;
    row.first_position = first_position;
    row.token_ids = absl::MakeConstSpan(tokens_).subspan(first_position, tokens);
    row.blocks = std::move(blocks);
    if (slot >= 0) row.terms = {{.slot = slot, .scale = 1.0f}};
    row.sample = sample;
    row.prompt_ids = absl::MakeConstSpan(tokens_).subspan(0, 40);
    return row;
  }
  const std::vector<int32_t> tokens_ = [] {
    std::vector<int32_t> tokens(100);
    for (int32_t i = 0; i < 100; ++i) tokens[i] = 1000 + i;
    return tokens;
  }();
};

TEST_F(ForwardBuilderTest, PositionsAndKvSlotsFollowTheBlocks) {
  const std::vector<ExecRow> rows = {Row(15, 3, {7, 2}, -1), Row(0, 1, {5}, -1)};
  const ForwardBatch batch = BuildForward(rows).batch;
  EXPECT_THAT(Values(batch.token_ids), ElementsAre(1015, 1016, 1017, 1000));
  EXPECT_THAT(Values(batch.positions), ElementsAre(15, 16, 17, 0));
  EXPECT_THAT(Values(batch.cu_rows), ElementsAre(0, 3, 4));
  EXPECT_THAT(Values(batch.kv_slots), ElementsAre(7 * 16 + 15, 2 * 16, 2 * 16 + 1, 5 * 16));
  EXPECT_THAT(Values(batch.block_table), ElementsAre(7, 2, 5, -1));
  EXPECT_EQ(batch.max_context_tokens, 18);
  EXPECT_THAT(batch.block_table.sizes(), ElementsAre(2, 2));
}

TEST_F(ForwardBuilderTest, ATokenThatIsBeingDrawnIsItsPlaceAmongTheDraws) {
  std::vector<ExecRow> rows = {Row(40, 1, {7, 2, 4}, -1), Row(40, 1, {5, 6, 8}, -1)};
  rows[0].from_draw = 3;
  rows[1].from_draw = 0;
  const ForwardBatch batch = BuildForward(rows).batch;
  EXPECT_THAT(Values(batch.token_ids), ElementsAre(TokenOfDraw(3), TokenOfDraw(0)));
  EXPECT_THAT(batch.sequence_tokens, ElementsAre(41, 41));
}

TEST_F(ForwardBuilderTest, OnlyRowsThatSampleHaveLogits) {
  const std::vector<ExecRow> rows = {Row(0, 3, {1}, -1, false), Row(0, 4, {2}, -1, true)};
  const BuiltBatch built = BuildForward(rows);
  EXPECT_THAT(Values(built.batch.logit_rows), ElementsAre(6));
  EXPECT_EQ(built.logits[0].rows, 0);
  EXPECT_EQ(built.logits[1].rows, 1);
  EXPECT_EQ(built.batch.head_rows.rows(), 1);
}

TEST_F(ForwardBuilderTest, PromptLogprobsWantEveryPositionThatHasANextPromptToken) {
  ExecRow chunk = Row(0, 4, {1}, -1, false);
  chunk.prompt_logprobs = true;
  ExecRow last = Row(37, 3, {2, 3, 4}, -1, true);
  last.prompt_logprobs = true;
  const std::vector<ExecRow> rows = {chunk, last};
  const BuiltBatch built = BuildForward(rows);
  EXPECT_THAT(Values(built.batch.logit_rows), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  EXPECT_EQ(built.logits[1].first_row, 4);
  EXPECT_EQ(built.logits[1].rows, 3);  // positions 37 and 38 for the prompt, 39 to sample
}

TEST_F(ForwardBuilderTest, NeighboursOnOneSlotShareASegmentAndBaseRowsHaveNoTerms) {
  const std::vector<ExecRow> rows = {Row(0, 2, {1}, -1), Row(0, 1, {2}, -1, false), Row(0, 3, {3}, 4),
                                     Row(0, 2, {4}, 4), Row(0, 1, {5}, 9)};
  const ForwardBatch batch = BuildForward(rows).batch;
  EXPECT_THAT(batch.rows.starts, ElementsAre(0, 3, 8, 9));
  EXPECT_THAT(batch.rows.term_starts, ElementsAre(0, 0, 1, 2));
  ASSERT_EQ(batch.rows.terms.size(), 2u);
  EXPECT_EQ(batch.rows.terms[0].slot, 4);
  EXPECT_EQ(batch.rows.terms[1].slot, 9);
  EXPECT_THAT(batch.head_rows.starts, ElementsAre(0, 1, 3, 4));
  EXPECT_EQ(batch.head_rows.rows(), 4);
}

TEST_F(ForwardBuilderTest, RowsBeforeTheInvocationRunOnTheBase) {
  std::vector<ExecRow> rows = {Row(0, 4, {1}, 4, false), Row(4, 4, {1}, 4, true), Row(8, 2, {1}, 4, true),
                               Row(0, 2, {2}, 4, true)};
  for (ExecRow& row : rows) row.active_from = 6;
  rows[1].prompt_logprobs = true;
  const ForwardBatch batch = BuildForward(rows).batch;
  EXPECT_THAT(batch.rows.starts, ElementsAre(0, 6, 10, 12));
  EXPECT_THAT(batch.rows.term_starts, ElementsAre(0, 0, 1, 1));
  // Of the second row all positions, then the last of the third and of the fourth.
  EXPECT_THAT(Values(batch.logit_rows), ElementsAre(4, 5, 6, 7, 9, 11));
  EXPECT_THAT(batch.head_rows.starts, ElementsAre(0, 2, 5, 6));
  EXPECT_THAT(batch.head_rows.term_starts, ElementsAre(0, 0, 1, 1));
}

TEST_F(ForwardBuilderTest, AnAdapterThatIsNeverActiveLeavesABaseStep) {
  std::vector<ExecRow> rows = {Row(0, 4, {1}, 4, true)};
  rows[0].active_from = kNeverActive;
  EXPECT_TRUE(BuildForward(rows).batch.rows.base_only());
}

TEST_F(ForwardBuilderTest, ABaseStepHasNoTerms) {
  const std::vector<ExecRow> rows = {Row(0, 2, {1}, -1), Row(0, 1, {2}, -1)};
  EXPECT_TRUE(BuildForward(rows).batch.rows.base_only());
}

}  // namespace
}  // namespace lorad
