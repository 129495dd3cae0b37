#include "scheduler/warm_up.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "model/kv/kv_layout.h"
#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kTokens = kKvBlockTokens;

// Notes the tokens of each step, and looks at its rows.
class NotingExecutor final : public StepExecutor {
 public:
  Ticket Launch(absl::Span<const ExecRow> rows, int64_t) override {
    int64_t tokens = 0;
    std::set<int32_t> blocks;
    for (const ExecRow& row : rows) {
      tokens += std::ssize(row.token_ids);
      EXPECT_LE(std::ssize(row.token_ids), kTokens);
      EXPECT_EQ(row.blocks.size(), 1u);
      EXPECT_TRUE(blocks.insert(row.blocks[0]).second) << "a block is one row's";
      EXPECT_EQ(row.blocks[0] % 3, 0);
      EXPECT_LE(row.blocks[0] + 3, total_pages);
      EXPECT_TRUE(row.sample && row.sampling != nullptr && row.terms.empty());
    }
    steps.push_back(tokens);
    return std::ssize(steps);
  }
  absl::StatusOr<StepResult> Wait(Ticket) override {
    if (std::ssize(steps) == fails_at) return absl::ResourceExhaustedError("full");
    return StepResult();
  }

  int64_t total_pages = 0;
  std::vector<int64_t> steps;
  int64_t fails_at = 0;
};

absl::Status WarmUpOf(int64_t batch_tokens, int64_t total_pages, NotingExecutor* executor) {
  executor->total_pages = total_pages;
  return WarmUp({.batch_tokens = batch_tokens, .total_pages = total_pages, .pages_of_block = 3}, executor);
}

TEST(WarmUpTest, RunsOneTokenTwiceAndAFullBatch) {
  NotingExecutor executor;
  EXPECT_THAT(WarmUpOf(3 * kTokens + 5, /*total_pages=*/100, &executor), IsOk());
  EXPECT_THAT(executor.steps, ElementsAre(1, 1, 3 * kTokens + 5));
}

TEST(WarmUpTest, ASmallPoolBoundsTheBatch) {
  NotingExecutor executor;
  EXPECT_THAT(WarmUpOf(1000, /*total_pages=*/8, &executor), IsOk());
  EXPECT_THAT(executor.steps, ElementsAre(1, 1, 2 * kTokens));
}

TEST(WarmUpTest, APoolWithoutABlockIsLeftAlone) {
  NotingExecutor executor;
  EXPECT_THAT(WarmUpOf(1000, /*total_pages=*/2, &executor), IsOk());
  EXPECT_THAT(executor.steps, ElementsAre());
}

TEST(WarmUpTest, AStepThatFailsIsTheAnswer) {
  NotingExecutor executor;
  executor.fails_at = 2;
  EXPECT_THAT(WarmUpOf(40, /*total_pages=*/100, &executor), IsError(absl::StatusCode::kResourceExhausted, "full"));
}

}  // namespace
}  // namespace lorad
