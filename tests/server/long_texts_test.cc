#include "server/long_texts.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <memory>

namespace lorad {
namespace {

TEST(LongTextsTest, OneAtATimeInTheOrderTheyCameAndAllBeforeItEnds) {
  std::vector<int> order;  // of the worker alone until it is joined
  std::atomic<int> inside = 0;
  auto texts = std::make_unique<LongTexts>();
  std::promise<void> go;
  ASSERT_TRUE(texts->Post([&] { go.get_future().wait(); }).ok());
  for (int i = 0; i < 8; ++i) {
    const absl::Status posted = texts->Post([&, i] {
      EXPECT_EQ(inside.fetch_add(1), 0);
      order.push_back(i);
      inside.fetch_sub(1);
    });
    ASSERT_TRUE(posted.ok());
  }
  go.set_value();
  texts.reset();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
}

TEST(LongTextsTest, RefusesWhenTooManyWaitAndKeepsNothingOfThem) {
  std::promise<void> began, go;  // of the worker, until texts has joined it
  LongTexts texts;
  ASSERT_TRUE(texts
                  .Post([&] {
                    began.set_value();
                    go.get_future().wait();
                  })
                  .ok());
  began.get_future().wait();
  for (size_t i = 0; i < LongTexts::kMaxWaiting; ++i) texts.PostAccepted([] {});  // these take nobody's place
  for (size_t i = 0; i < LongTexts::kMaxWaiting; ++i) ASSERT_TRUE(texts.Post([] {}).ok());
  auto held = std::make_shared<int>(0);
  const absl::Status refused = texts.Post([held] {});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("limit: 16"), absl::string_view::npos) << refused;
  EXPECT_EQ(held.use_count(), 1);
  texts.PostAccepted([held] {});  // the engine has accepted its request: it waits beyond the limit
  EXPECT_EQ(held.use_count(), 2);
  go.set_value();
}

}  // namespace
}  // namespace lorad
