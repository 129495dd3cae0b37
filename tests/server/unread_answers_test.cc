#include "server/unread_answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <optional>
#include <vector>

namespace lorad {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr UnreadLimits kLimits{.idle_us = 60, .total_bytes = 100, .patience_us = 10};

TEST(UnreadAnswersTest, AReaderThatTakesNothingForTooLongIsGivenUp) {
  const std::vector<UnreadAnswer> answers = {{1, 59}, {1, 60}, {1, 0}, {0, 1000}};
  EXPECT_THAT(ReadersToGiveUp(answers, kLimits), ElementsAre(1, 3));
}

TEST(UnreadAnswersTest, TooMuchTogetherEndsThoseIdleLongestUntilTheRestFits) {
  const std::vector<UnreadAnswer> answers = {{40, 20}, {40, 30}, {40, 25}, {20, 12}};
  EXPECT_THAT(ReadersToGiveUp(answers, kLimits), ElementsAre(1));
}

TEST(UnreadAnswersTest, OneLargeAnswerThatIsBeingReadIsLeftAlone) {
  EXPECT_THAT(ReadersToGiveUp({{1000, 9}}, kLimits), IsEmpty());
  EXPECT_THAT(ReadersToGiveUp({{1000, 9}, {10, 50}}, kLimits), ElementsAre(1));
  EXPECT_THAT(ReadersToGiveUp({}, kLimits), IsEmpty());
}

TEST(UnreadAnswersTest, ItLooksUntilAnAnswerIsReadOrGivenUp) {
  std::promise<void> given_up, gone;
  std::optional<UnreadAnswers> unread;  // The pump's thread uses it to the end.
  StreamPump pump;
  unread.emplace(&pump, UnreadLimits{.idle_us = 5});
  int looks = 0;
  pump.Post([&] {
    unread->Add(
        [&]() -> std::optional<UnreadAnswer> {
          if (++looks == 3) {
            gone.set_value();
            return std::nullopt;
          }
          return UnreadAnswer{1, looks == 2 ? 5 : 0};
        },
        [&] { given_up.set_value(); });
  });
  given_up.get_future().wait();
  gone.get_future().wait();
}

}  // namespace
}  // namespace lorad
