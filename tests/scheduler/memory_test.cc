#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "tests/support/fake_world.h"

namespace lorad {
namespace {

std::set<int64_t> PagesOf(const PagePool& pages, PageOwner owner) {
  std::set<int64_t> found;
  for (int64_t page = 0; page < pages.total_pages(); ++page) {
    if (!pages.IsFree(page) && pages.OwnerOf(page) == owner) found.insert(page);
  }
  return found;
}

TEST(MemoryTest, KvTakesThePagesOfIdleAdaptersAndAdaptersTakeThemBack) {
  FakeWorld world({.total_pages = 32});
  for (int i = 0; i < 6; ++i) {
    world.Folder(absl::StrCat("a", i), 1 + i, 5);
    ASSERT_TRUE(world.Load(absl::StrCat("a", i)).ok());
  }
  const std::set<int64_t> of_adapters = PagesOf(*world.pages, PageOwner::kAdapter);
  EXPECT_EQ(of_adapters.size(), 30u);

  // KV fills the memory: all idle adapters go.
  Request filling = world.MakeRequest("", 30 * kKvBlockTokens, 30);
  const RequestId id = filling.id;
  ASSERT_TRUE(world.Submit(std::move(filling)).ok());
  while (world.pages->used_pages(PageOwner::kKv) < 30) ASSERT_TRUE(world.Turn());
  EXPECT_EQ(world.pool.resident_count(), 0);
  std::set<int64_t> of_kv = PagesOf(*world.pages, PageOwner::kKv);
  int64_t changed_owner = 0;
  for (const int64_t page : of_adapters) changed_owner += static_cast<int64_t>(of_kv.count(page));
  EXPECT_GE(changed_owner, 28);

  // The sequence ends; adapters that run take the memory, and what KV may have shrinks.
  world.inbox.Put(CancelCommand{.request = id});
  world.Settle();
  std::vector<std::shared_ptr<RecordingSink>> users;
  for (int i = 0; i < 5; ++i) users.push_back(world.Generate(absl::StrCat("a", i), 1, 14));
  for (int i = 0; i < 4; ++i) {
    world.AnswerLoader();
    world.Turn();
  }
  EXPECT_EQ(world.pages->used_pages(PageOwner::kAdapter), 25);
  const std::set<int64_t> back = PagesOf(*world.pages, PageOwner::kAdapter);
  for (const int64_t page : back) EXPECT_TRUE(of_kv.count(page) + of_adapters.count(page) > 0);
  const auto wide = world.Generate("", 10 * kKvBlockTokens, 2);
  world.Turn();
  EXPECT_EQ(wide->answer().events, 0);  // there is no room for it beside them
  world.Settle();
  EXPECT_EQ(wide->answer().tokens.size(), 2u);
  for (const auto& user : users) EXPECT_EQ(user->answer().tokens.size(), 14u);
}

TEST(MemoryTest, AfterAThousandLoadsAndUnloadsNoPageIsOwned) {
  FakeWorld world({.total_pages = 40});
  for (int i = 0; i < 1'000; ++i) {
    const std::string name = absl::StrCat("a", i % 13);
    world.Folder(name, 1 + i, 1 + i % 9);
    ASSERT_TRUE(world.Load(name).ok());
    if (i % 7 == 0) world.Generate(name, 1 + i % 50, 5);
    const auto unload = world.Unload(name);
    world.Settle();
    ASSERT_TRUE(unload->has_value() && (*unload)->ok());
  }
  EXPECT_EQ(world.pages->free_pages(), world.pages->total_pages());
  EXPECT_EQ(world.pages->largest_free_run(), world.pages->total_pages());
  EXPECT_EQ(world.pool.resident_count(), 0);
  EXPECT_TRUE(world.core.state().adapters.versions().empty());
}

TEST(MemoryTest, AFolderThatIsNeverReadDelaysNobodyElsesTokens) {
  // The same traffic with and without hanging reads takes the same steps.
  const auto steps_of = [](bool hanging) {
    FakeWorld world({.config = {.max_overtakes = 3}});
    world.Folder("good", 7);
    EXPECT_TRUE(world.Load("good").ok());
    std::vector<std::shared_ptr<RecordingSink>> stuck;
    for (int i = 0; i < 20 && hanging; ++i) {
      const std::string name = absl::StrCat("hangs-", i);
      world.Folder(name, 100 + i);
      world.loader.folders[FakeWorld::PathOf(name)].hangs = true;
      world.StartLoad(name);
      stuck.push_back(world.Generate(name, 4, 4));
    }
    const size_t before = world.observer.steps.size();
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < 40; ++i) sinks.push_back(world.Generate(i % 2 == 0 ? "" : "good", 10, 10));
    world.Settle();
    for (const auto& sink : sinks) EXPECT_EQ(sink->answer().tokens.size(), 10u);
    for (const auto& sink : stuck) EXPECT_EQ(sink->answer().events, 0);
    // An adapter that comes later is read, packed and used.
    world.Folder("late", 8);
    EXPECT_TRUE(world.Load("late").ok());
    const auto late = world.Generate("late", 10, 10);
    const size_t steps = world.observer.steps.size() - before;
    world.Settle();
    EXPECT_TRUE(late->finished());
    return steps;
  };
  EXPECT_EQ(steps_of(true), steps_of(false));
}

TEST(MemoryTest, AColdRequestIsNotStarvedByThoseBehindIt) {
  FakeWorld world({.total_pages = 12, .config = {.max_sequences = 4, .max_overtakes = 3}});
  world.Folder("wide", 7, 8);
  ASSERT_TRUE(world.Load("wide").ok());
  std::vector<std::shared_ptr<RecordingSink>> others;
  const auto keep_busy = [&] {
    while (world.inbox.queued_sequences() < 4) others.push_back(world.Generate("", 40, 12));
  };
  keep_busy();
  for (int i = 0; i < 20; ++i) {
    world.Turn();
    keep_busy();
  }
  EXPECT_EQ(world.Listed("wide")->state, AdapterState::kHost);
  const size_t ahead = others.size();
  const auto cold = world.Generate("wide", 10, 5);
  for (int i = 0; i < 400 && !cold->finished(); ++i) {
    world.AnswerLoader();
    world.Turn();
    keep_busy();
  }
  EXPECT_EQ(cold->answer().tokens.size(), 5u);
  // Three passed it by while it waited for room; a few more while it was read.
  size_t before_it = 0;
  for (size_t i = ahead; i < others.size(); ++i) before_it += others[i]->answer().events > 0;
  EXPECT_LE(before_it, 12u);
}

TEST(MemoryTest, ScatteredPagesAreJoinedAndTokensStayRight) {
  FakeWorld world({.total_pages = 48, .kv_pages_per_block = 3, .config = {.max_sequences = 12}});
  world.Folder("a", 1, 4);
  world.Folder("b", 2, 7);
  ASSERT_TRUE(world.Load("a").ok());
  std::vector<Request> requests;
  for (int i = 0; i < 40; ++i) {
    requests.push_back(world.MakeRequest(i % 3 == 0 ? "a" : "", 1 + i * 11 % 60, 1 + i * 7 % 30));
    ASSERT_TRUE(world.Submit(requests.back()).ok());
    world.Turn();
    if (i % 8 == 5) world.StartLoad("b", false, /*replace=*/true);
    world.AnswerLoader();
  }
  world.Settle();
  for (const Request& request : requests) {
    EXPECT_EQ(FakeWorld::SinkOf(request)->answer().tokens,
              FakeGenerate(request.prompt_ids, request.adapter.empty() ? 0 : 1, request.sampling));
  }
}

int64_t ImagesIn(const FakeWorld& world) {
  int64_t images = 0;
  for (const auto& [id, version] : world.core.state().adapters.versions()) images += version->image != nullptr;
  return images;
}

// However many cold adapters are named, and by whom, so many images lie in host memory and no more.
void ExpectFewImages(bool by_command) {
  constexpr int kNames = 200;
  FakeWorld world({.total_pages = 16});
  const auto busy = world.Generate("", 14 * kKvBlockTokens, 20);
  world.Turn();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < kNames; ++i) {
    const std::string name = absl::StrCat("cold-", i);
    world.Folder(name, 1 + i, 3);
    if (by_command) world.StartLoad(name);
    Request request = world.MakeRequest(name, 10, 3);
    sinks.push_back(FakeWorld::SinkOf(request));
    ASSERT_TRUE(world.Submit(std::move(request), FakeWorld::PathOf(name)).ok());
  }
  int64_t most_images = 0;
  int64_t most_reads = 0;
  for (int i = 0; i < 10'000 && !sinks.back()->finished(); ++i) {
    world.Turn();
    most_images = std::max(most_images, ImagesIn(world));
    most_reads = std::max(most_reads, static_cast<int64_t>(world.loader.jobs.size()));
    world.AnswerLoader();
  }
  world.Settle();
  const ResidencyInput bounds;
  EXPECT_LE(most_images, bounds.max_staged + bounds.max_parked);
  if (!by_command) {
    EXPECT_LE(most_reads, 2 * bounds.max_staged);
  }
  for (const auto& sink : sinks) EXPECT_EQ(sink->answer().tokens.size(), 3u);
  EXPECT_EQ(busy->answer().tokens.size(), 20u);
  EXPECT_EQ(ImagesIn(world), 0);
}

TEST(MemoryTest, ManyColdFoldersOfAdapterDirHoldFewImages) { ExpectFewImages(/*by_command=*/false); }

TEST(MemoryTest, ManyLoadsThatRequestsWaitForHoldFewImages) { ExpectFewImages(/*by_command=*/true); }

TEST(MemoryTest, ATurnThatOnlyMovesPagesForAnAdapterSaysSo) {
  // Too much to move for one turn, and nobody runs: the engine must not sleep in between.
  constexpr int64_t kPages = 1'025;  // one of them is more than one call of compaction copies
  FakeWorld world({.total_pages = 80 * kPages});
  for (int i = 0; i < 80; ++i) {
    world.Folder(absl::StrCat("a", i), 1 + i, kPages);
    ASSERT_TRUE(world.Load(absl::StrCat("a", i), /*pinned=*/i % 2 == 0).ok());
  }
  for (int i = 1; i < 80; i += 2) world.Unload(absl::StrCat("a", i));
  world.Settle();
  world.Folder("wide", 100, 39 * kPages);
  ASSERT_TRUE(world.Submit(world.MakeRequest("wide", 4, 4), FakeWorld::PathOf("wide")).ok());
  world.Turn();
  world.AnswerLoader();
  int turns = 0;
  for (; world.loader.jobs.empty() && turns < 20; ++turns) ASSERT_TRUE(world.Turn());
  EXPECT_GT(turns, 1);
  EXPECT_LT(turns, 20);
}

TEST(MemoryTest, AHeadThatNothingCanMakeRoomForIsEndedWithTheNumbers) {
  FakeWorld world({.total_pages = 16, .config = {.max_context_tokens = 240}});
  world.Folder("pinned", 1, 8);
  ASSERT_TRUE(world.Load("pinned", /*pinned=*/true).ok());
  const auto wide = world.Generate("", 9 * kKvBlockTokens, 10);
  const auto small = world.Generate("", 10, 10);
  world.Settle();
  EXPECT_TRUE(absl::IsResourceExhausted(wide->answer().finish.status));
  EXPECT_THAT(std::string(wide->answer().finish.status.message()), ::testing::HasSubstr("limit: 16"));
  EXPECT_EQ(small->answer().tokens.size(), 10u);
}

TEST(MemoryTest, MaxTokensThatNobodyAskedForShrinkToTheMemory) {
  FakeWorld world({.total_pages = 8});
  Request request = world.MakeRequest("", 100, 4'000);
  request.max_tokens_is_default = true;
  ASSERT_TRUE(world.Submit(request).ok());
  world.Settle();
  const RecordingSink::Answer answer = FakeWorld::SinkOf(request)->answer();
  EXPECT_EQ(answer.tokens.size(), 8u * kKvBlockTokens - 100 + 1);
  EXPECT_EQ(answer.finish.reason, FinishReason::kLength);
}

// A model whose rope changes all angles at 32 and 64 tokens: what was computed before is computed again, and nothing
// that the sequence was told changes.
TEST(MemoryTest, ASequenceThatGrowsIntoOtherAnglesIsComputedAgainInItsPlace) {
  const RopeSwitch every_32 = {.every_tokens = 32, .last_variant = 2};
  FakeWorld world({.total_pages = 64, .config = {.rope_switch = every_32}});
  std::vector<int64_t> restarts_at;  // tokens known when the first position was computed
  world.executor.on_step = [&](absl::Span<const ExecRow> rows, StepResult*) {
    for (const ExecRow& row : rows) {
      const auto known = static_cast<int64_t>(row.prompt_ids.size() + row.generated_ids.size());
      const auto computed = row.first_position + static_cast<int64_t>(row.token_ids.size());
      if (row.first_position == 0) restarts_at.push_back(known);
      EXPECT_EQ(computed, known);
    }
  };
  Request request = world.MakeRequest("", 20, 100);
  const std::vector<int32_t> expected = FakeGenerate(request.prompt_ids, 0, request.sampling, every_32);
  const std::shared_ptr<RecordingSink> sink = FakeWorld::SinkOf(request);
  ASSERT_TRUE(world.Submit(std::move(request)).ok());
  world.Settle();
  EXPECT_EQ(sink->answer().tokens, expected);
  EXPECT_THAT(restarts_at, testing::ElementsAre(20, 33, 65));
  EXPECT_EQ(world.observer.preempted, 0);
  EXPECT_EQ(world.core.snapshot()->kv_pages, 0);
}

TEST(MemoryTest, SequencesThatRestartInLittleMemoryAllEnd) {
  const RopeSwitch every_20 = {.every_tokens = 20, .last_variant = 10};
  FakeWorld world({.total_pages = 12, .config = {.max_batch_tokens = 24, .rope_switch = every_20}});
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int64_t i = 0; i < 6; ++i) sinks.push_back(world.Generate("", 5 + 7 * i, 60));
  world.Settle();
  for (const auto& sink : sinks) EXPECT_EQ(sink->answer().tokens.size(), 60u);
}

}  // namespace
}  // namespace lorad
