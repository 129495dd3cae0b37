#include "scheduler/tuning/run_queue.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace lorad {
namespace {

using testing::HasSubstr;

constexpr int64_t kAnyRoom = std::numeric_limits<int64_t>::max();

RunOp OpOfRows(size_t rows) {
  RunOp op;
  op.sequences.push_back({std::vector<int32_t>(rows, 5), std::vector<int32_t>(rows, 6)});
  return op;
}

// A queue behind number 7, as whoever keeps the runs uses it.
class RunQueueTest : public testing::Test {
 protected:
  // What the call `caller` gets goes into answers_[caller].
  void Ask(size_t caller, int64_t sequence, size_t rows = 1, int64_t room_bytes = kAnyRoom) {
    answers_.resize(std::max(answers_.size(), caller + 1));
    RunQueue::Reply reply = [this, caller](absl::StatusOr<RunResult> result) {
      EXPECT_FALSE(answers_[caller].has_value()) << "answered twice";
      answers_[caller].emplace(std::move(result));
    };
    const auto answer = queue_.Add(sequence, OpOfRows(rows), room_bytes, &reply);
    if (answer.has_value()) reply(*answer);
  }
  void Answer(double loss) {
    RunResult result;
    result.loss = loss;
    if (const RunQueue::Reply reply = queue_.Answer(result); reply) reply(result);
  }

  RunQueue queue_{7};
  std::vector<std::optional<absl::StatusOr<RunResult>>> answers_;
};

TEST_F(RunQueueTest, OperationsComeInTheOrderOfTheirNumbersAndAnswersAreKept) {
  Ask(0, 9, /*rows=*/2);
  EXPECT_EQ(queue_.Next(), nullptr);
  Ask(1, 8, /*rows=*/1);
  ASSERT_NE(queue_.Next(), nullptr);
  EXPECT_EQ(queue_.Next()->sequences[0].token_ids.size(), 1u);
  Answer(0.5);
  EXPECT_EQ(queue_.Next()->sequences[0].token_ids.size(), 2u);
  EXPECT_FALSE(answers_[0].has_value());
  Ask(2, 8);
  for (const size_t caller : {1u, 2u}) {
    ASSERT_TRUE(answers_[caller].has_value());
    ASSERT_THAT(*answers_[caller], IsOk());
    EXPECT_EQ((*answers_[caller])->loss, 0.5);
  }
}

TEST_F(RunQueueTest, OfThoseWhoAskForOneNumberTheNewestIsKeptAndNothingPilesUp) {
  Ask(0, 9, /*rows=*/100);
  const int64_t bytes = queue_.waiting_bytes();
  for (size_t caller = 1; caller <= 1000; ++caller) Ask(caller, 9, /*rows=*/100);
  EXPECT_EQ(queue_.waiting_bytes(), bytes);
  for (size_t caller = 0; caller < 1000; ++caller) {
    ASSERT_TRUE(answers_[caller].has_value()) << caller;
    EXPECT_THAT(*answers_[caller], IsError(absl::StatusCode::kAborted, HasSubstr("asked again")));
  }
  EXPECT_FALSE(answers_[1000].has_value());
  Ask(1001, 8);
  Answer(1.0);
  Answer(2.0);
  ASSERT_TRUE(answers_[1000].has_value());
  ASSERT_THAT(*answers_[1000], IsOk());
  EXPECT_EQ((*answers_[1000])->loss, 2.0);
  EXPECT_EQ(queue_.waiting_bytes(), 0);
}

TEST_F(RunQueueTest, TooManyOrTooLargeAreRefusedButNotTheOneThatLetsGoOfThem) {
  Ask(0, 9, /*rows=*/100, /*room_bytes=*/1000);
  ASSERT_TRUE(answers_[0].has_value());
  EXPECT_THAT(*answers_[0], IsError(absl::StatusCode::kResourceExhausted, HasSubstr("retry when number 8 is done")));
  for (size_t i = 0; i < 256; ++i) Ask(1 + i, 9 + static_cast<int64_t>(i));
  Ask(257, 9 + 256);
  ASSERT_TRUE(answers_[257].has_value());
  EXPECT_THAT(*answers_[257], IsError(absl::StatusCode::kResourceExhausted, HasSubstr("operations that wait: 256")));
  Ask(258, 8, /*rows=*/100, /*room_bytes=*/0);
  EXPECT_FALSE(answers_[258].has_value());
  EXPECT_NE(queue_.Next(), nullptr);
}

TEST_F(RunQueueTest, WhoeverWaitsAtTheEndIsGivenOnce) {
  Ask(0, 8);
  Ask(1, 10);
  EXPECT_EQ(queue_.Close().size(), 2u);
  EXPECT_TRUE(queue_.Close().empty());
  EXPECT_EQ(queue_.Next(), nullptr);
  Answer(1.0);  // of what was under way
  EXPECT_FALSE(answers_[0].has_value());
}

}  // namespace
}  // namespace lorad
