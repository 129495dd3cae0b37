#include "adapters/invocation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace lorad {
namespace {

using Tokens = std::vector<int32_t>;

TEST(InvocationTest, IsTheLastOneThatIsWhole) {
  EXPECT_EQ(ActiveFrom({1, 7, 8, 2, 7, 8, 3}, {7, 8}), 4);
  EXPECT_EQ(ActiveFrom({7, 8, 1, 7}, {7, 8}), 0);
  EXPECT_EQ(ActiveFrom({7, 7, 7}, {7, 7}), 1);
  EXPECT_EQ(ActiveFrom({1, 7, 8}, {7, 8}), 1);
}

TEST(InvocationTest, WithoutOneTheAdapterIsNeverActive) {
  EXPECT_EQ(ActiveFrom({1, 7, 2, 8}, {7, 8}), kNeverActive);
  EXPECT_EQ(ActiveFrom({8}, {7, 8}), kNeverActive);
  EXPECT_EQ(ActiveFrom({}, {7}), kNeverActive);
}

TEST(InvocationTest, AnAdapterThatHasNoneIsActiveFromTheBeginning) {
  EXPECT_EQ(ActiveFrom({1, 2}, {}), 0);
  EXPECT_EQ(ActiveFrom({}, {}), 0);
}

TEST(InvocationTest, FindsWhatAPlainSearchFindsInTokensThatRepeat) {
  std::mt19937 random(3);
  int found = 0;
  for (int i = 0; i < 20'000; ++i) {
    Tokens prompt(random() % 24), invocation(1 + random() % 6);
    for (Tokens* tokens : {&prompt, &invocation}) {
      for (int32_t& token : *tokens) token = static_cast<int32_t>(random() % 2);
    }
    const auto plain = std::find_end(prompt.begin(), prompt.end(), invocation.begin(), invocation.end());
    ASSERT_EQ(ActiveFrom(prompt, invocation), plain == prompt.end() ? kNeverActive : plain - prompt.begin());
    found += plain != prompt.end();
  }
  EXPECT_GT(found, 5'000);
}

}  // namespace
}  // namespace lorad
