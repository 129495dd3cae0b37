#include "model/ops/cpu/team.h"

#include <gtest/gtest.h>
#include <sys/single_threaded.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "model/ops/cpu/parallel.h"

namespace lorad::cpu {
namespace {

template <typename Fn>
void RunOn(ComputeTeam& team, int64_t count, int64_t piece, const Fn& fn) {
  team.Run(
      count, piece,
      [](const void* context, int64_t begin, int64_t end) { (*static_cast<const Fn*>(context))(begin, end); }, &fn);
}

// How often each item was computed, without synchronisation: ThreadSanitizer sees two threads on one item, or a region
// that ends before its pieces.
class Visits final {
 public:
  explicit Visits(int64_t count) : times_(static_cast<size_t>(count)) {}
  void Visit(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++times_[static_cast<size_t>(i)];
  }
  bool AllAre(int times) const {
    for (const int t : times_)
      if (t != times) return false;
    return true;
  }

 private:
  std::vector<int> times_;
};

TEST(ComputeTeamTest, ComputesEveryItemOnceInPiecesOfTheSize) {
  for (const int threads : {1, 2, 3, 8}) {
    ComputeTeam team(threads);
    EXPECT_EQ(team.threads(), threads);
    for (const int64_t count : {0, 1, 2, 3, 7, 8, 64, 1000}) {
      for (const int64_t piece : {0, 1, 3, 64, 5000}) {
        Visits visits(count);
        std::atomic<int64_t> largest{0};
        RunOn(team, count, piece, [&](int64_t begin, int64_t end) {
          if (end - begin > largest) largest = end - begin;
          visits.Visit(begin, end);
        });
        EXPECT_TRUE(visits.AllAre(1)) << threads << " threads, " << count << " items in pieces of " << piece;
        if (threads > 1) {
          EXPECT_LE(largest, std::max<int64_t>(piece, 1));
        }
      }
    }
  }
}

TEST(ComputeTeamTest, RegionsFollowEachOtherWhetherWorkersSpinOrSleep) {
  ComputeTeam team(4);
  Visits visits(97);
  int regions = 0;
  for (int round = 0; round < 40; ++round) {
    std::optional<ComputeTeam::KeepAwake> awake;
    if (round % 3 != 0) awake.emplace(&team);
    for (int i = 0; i < 100; ++i, ++regions) {
      RunOn(team, 97, 1 + i % 7, [&](int64_t begin, int64_t end) { visits.Visit(begin, end); });
    }
    if (round % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(2 * ComputeTeam::kSpinUs));
  }
  EXPECT_TRUE(visits.AllAre(regions));
}

// A piece that holds a thread up for good, until the others have computed all that is left.
TEST(ComputeTeamTest, NobodyWaitsForAThreadWhileThereIsWork) {
  ComputeTeam team(2);
  for (int round = 0; round < 50; ++round) {
    const ComputeTeam::KeepAwake awake(&team);
    std::atomic<int> left{16};
    std::atomic<bool> held{false};
    RunOn(team, 16, 1, [&](int64_t, int64_t) {
      --left;
      if (held.exchange(true)) return;
      while (left > 0) std::this_thread::yield();
    });
    EXPECT_EQ(left, 0);
  }
}

TEST(ComputeTeamTest, ARegionInsideARegionRunsOnItsThread) {
  ComputeTeam team(3);
  std::atomic<int> inner{0}, strangers{0};
  RunOn(team, 12, 1, [&](int64_t, int64_t) {
    const std::thread::id self = std::this_thread::get_id();
    RunOn(team, 10, 1, [&](int64_t begin, int64_t end) {
      inner += static_cast<int>(end - begin);
      if (std::this_thread::get_id() != self) ++strangers;
    });
  });
  EXPECT_EQ(inner, 120);
  EXPECT_EQ(strangers, 0);
}

TEST(ComputeTeamTest, CallersFromManyThreadsGetAllTheirItems) {
  ComputeTeam team(3);
  std::vector<std::thread> callers;
  std::atomic<int> good{0};
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      Visits visits(50 + c);
      for (int i = 0; i < 200; ++i) {
        RunOn(team, 50 + c, 4, [&](int64_t begin, int64_t end) { visits.Visit(begin, end); });
      }
      if (visits.AllAre(200)) ++good;
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(good, 4);
}

TEST(ComputeTeamTest, WhatAPieceThrowsReachesTheCallerOnceAllHaveEnded) {
  ComputeTeam team(3);
  for (int round = 0; round < 20; ++round) {
    Visits visits(30);
    EXPECT_THROW(RunOn(team, 30, 1,
                       [&](int64_t begin, int64_t end) {
                         visits.Visit(begin, end);
                         if (begin % 7 == round % 7) throw std::runtime_error("no memory");
                       }),
                 std::runtime_error);
    EXPECT_TRUE(visits.AllAre(1));
  }
  Visits visits(30);
  RunOn(team, 30, 1, [&](int64_t begin, int64_t end) { visits.Visit(begin, end); });
  EXPECT_TRUE(visits.AllAre(1));
}

TEST(ParallelTest, RangesHaveAtLeastTheGrainAndTasksAreSingle) {
  SetComputeThreads(3);
  EXPECT_EQ(ComputeThreads(), 3);
  Visits visits(100), tasks(33);
  std::atomic<int> ranges{0}, small{0};
  ParallelFor(100, 30, [&](int64_t begin, int64_t end) {
    ++ranges;
    if (end - begin < 30 && end != 100) ++small;
    visits.Visit(begin, end);
  });
  EXPECT_TRUE(visits.AllAre(1));
  EXPECT_EQ(ranges, 4);
  EXPECT_EQ(small, 0);
  ParallelTasks(33, [&](int64_t task) { tasks.Visit(task, task + 1); });
  EXPECT_TRUE(tasks.AllAre(1));
}

// In a process of its own, where nobody has computed yet.
TEST(ParallelDeathTest, NoThreadsAreMadeThatAreNotWanted) {
  if (!__libc_single_threaded) return;  // ThreadSanitizer has a thread of its own
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        SetComputeThreads(1);
        std::exit(__libc_single_threaded && ComputeThreads() == 1 ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace lorad::cpu
