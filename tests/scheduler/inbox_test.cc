#include "scheduler/inbox.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace lorad {
namespace {

SubmitCommand Sequences(int32_t n) {
  SubmitCommand command;
  command.request.n = n;
  return command;
}

TEST(InboxTest, SubmitsAreBoundedBySequencesThatHaveNotBegun) {
  Inbox inbox(3, 10);
  EXPECT_TRUE(inbox.PutSubmit(Sequences(2)).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(inbox.PutSubmit(Sequences(2))));
  EXPECT_TRUE(inbox.PutSubmit(Sequences(1)).ok());
  std::vector<Command> commands;
  inbox.DrainInto(&commands, 0);
  EXPECT_EQ(commands.size(), 2u);
  EXPECT_TRUE(absl::IsResourceExhausted(inbox.PutSubmit(Sequences(1))));
  inbox.SequenceLeftQueue();
  EXPECT_TRUE(inbox.PutSubmit(Sequences(1)).ok());
}

TEST(InboxTest, AdapterCommandsAreBoundedUntilAnswered) {
  Inbox inbox(1, 1);
  EXPECT_TRUE(inbox.PutAdapter(PinCommand{}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(inbox.PutAdapter(PinCommand{})));
  inbox.CommandAnswered();
  EXPECT_TRUE(inbox.PutAdapter(PinCommand{}).ok());
}

TEST(InboxTest, CancelsAndLoaderEventsAreNeverRefused) {
  Inbox inbox(1, 1);
  EXPECT_TRUE(inbox.PutSubmit(Sequences(1)).ok());
  for (int i = 0; i < 100; ++i) inbox.Put(CancelCommand{});
  std::vector<Command> commands;
  inbox.DrainInto(&commands, 0);
  EXPECT_EQ(commands.size(), 101u);
}

TEST(InboxTest, WhileDrainingSubmitsAreUnavailableAndCancelsGoOn) {
  Inbox inbox(1, 1);
  inbox.RefuseSubmits();
  EXPECT_TRUE(absl::IsUnavailable(inbox.PutSubmit(Sequences(1))));
  EXPECT_TRUE(absl::IsUnavailable(inbox.PutAdapter(PinCommand{})));
  inbox.Put(CancelCommand{});
  std::vector<Command> commands;
  inbox.DrainInto(&commands, 0);
  EXPECT_EQ(commands.size(), 1u);
}

TEST(InboxTest, AWaitEndsWithItsTimeOrAWake) {
  Inbox inbox(1, 1);
  std::vector<Command> commands;
  inbox.DrainInto(&commands, 1'000);
  EXPECT_TRUE(commands.empty());
  std::thread waker([&] { inbox.Wake(); });
  inbox.DrainInto(&commands, -1);
  waker.join();
  EXPECT_TRUE(commands.empty());
}

TEST(InboxTest, WhatWasNeverTakenOutComesBackOnClose) {
  Inbox inbox(5, 5);
  EXPECT_TRUE(inbox.PutSubmit(Sequences(1)).ok());
  EXPECT_EQ(inbox.Close().size(), 1u);
  EXPECT_TRUE(absl::IsUnavailable(inbox.PutSubmit(Sequences(1))));
}

TEST(InboxTest, ManyThreadsLoseNothingAndEachKeepsItsOrder) {
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  Inbox inbox(1, 1);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&inbox, t] {
      for (int i = 0; i < kEach; ++i) inbox.Put(CancelCommand{.request = static_cast<RequestId>(t), .index = i});
    });
  }
  std::vector<int> next(kThreads, 0);
  std::vector<Command> commands;
  for (int taken = 0; taken < kThreads * kEach;) {
    inbox.DrainInto(&commands, -1);
    for (const Command& command : commands) {
      const auto& cancel = std::get<CancelCommand>(command);
      EXPECT_EQ(cancel.index, next[cancel.request]++);
      ++taken;
    }
    commands.clear();
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace lorad
