#include "model/kv/prefix_cache.h"

#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/kv/prefix_cache_fixture.h"

namespace lorad {
namespace {

class PrefixCacheTest : public PrefixCacheFixture {
 protected:
  PrefixTreePtr base = cache.TreeOf("base");
};

TEST_F(PrefixCacheTest, FindsTheBlocksThatAPromptBeginsWith) {
  const std::vector<int32_t> tokens = Tokens(100, 4);
  { const PrefixChain chain = Compute(base, tokens); }
  EXPECT_EQ(BlocksFound(base, tokens), 4);
  EXPECT_EQ(BlocksFound(base, Joined(Tokens(100, 2), Tokens(7, 2))), 2);
  EXPECT_EQ(BlocksFound(base, Tokens(101, 4)), 0);
}

TEST_F(PrefixCacheTest, OnlyFullBlocksWithinTheLimitCount) {
  const std::vector<int32_t> tokens = Tokens(0, 3);
  const PrefixChain chain = Compute(base, tokens);
  EXPECT_EQ(cache.Match(base, tokens, 3 * kKvBlockTokens - 1).blocks, 2);
  EXPECT_EQ(cache.Match(base, tokens, 0).blocks, 0);
  EXPECT_EQ(cache.Match(base, absl::MakeConstSpan(tokens).subspan(0, 40), 1000).blocks, 2);
}

TEST_F(PrefixCacheTest, ABlockIsOnlyFoundAfterTheSameTokens) {
  const PrefixChain chain = Compute(base, Joined(Tokens(0, 1), Tokens(500, 1)));
  EXPECT_EQ(BlocksFound(base, Tokens(500, 1)), 0);
  EXPECT_EQ(BlocksFound(base, Joined(Tokens(1, 1), Tokens(500, 1))), 0);
}

TEST_F(PrefixCacheTest, ContentsShareNothing) {
  const PrefixTreePtr adapter = cache.TreeOf("adapter aa");
  const PrefixChain chain = Compute(base, Tokens(0, 2));
  EXPECT_EQ(BlocksFound(adapter, Tokens(0, 2)), 0);
  const PrefixChain other = Compute(adapter, Tokens(0, 2));
  EXPECT_NE(chain.first_page(0), other.first_page(0));
  EXPECT_EQ(cache.stats().blocks, 4);
}

TEST_F(PrefixCacheTest, WhoAsksForAContentTwiceGetsTheSameTree) {
  const PrefixTreePtr one = cache.TreeOf("adapter aa");
  EXPECT_EQ(one, cache.TreeOf("adapter aa"));
  EXPECT_NE(one, cache.TreeOf("adapter ab"));
}

TEST_F(PrefixCacheTest, WithoutATreeNothingIsFoundOrHeld) {
  EXPECT_EQ(BlocksFound(nullptr, Tokens(0, 2)), 0);
  EXPECT_EQ(Match(nullptr, Tokens(0, 2)).next_block, 0u);
  EXPECT_FALSE(cache.Acquire(nullptr, Tokens(0, 2), 0).has_tree());
}

TEST_F(PrefixCacheTest, ABlockComputedTwiceIsKeptOnce) {
  PrefixChain first = cache.Acquire(base, {}, 0);
  PrefixChain second = cache.Acquire(base, {}, 0);
  const BlockTokens tokens = TokensOfBlock(Tokens(3, 1), 0);
  first.Extend(tokens, Run());
  second.Extend(tokens, Run());
  EXPECT_EQ(first.first_page(0), second.first_page(0));
  EXPECT_EQ(used_pages(), 1);
  ASSERT_EQ(cache.Blocks().size(), 1u);
  EXPECT_EQ(cache.Blocks()[0].holders, 2);
}

TEST_F(PrefixCacheTest, CountsHoldersAndWhatIsIdle) {
  PrefixChain first = Compute(base, Tokens(0, 3));
  EXPECT_EQ(first.sole_blocks(), 3);
  PrefixChain second = Compute(base, Joined(Tokens(0, 2), Tokens(900, 1)));
  EXPECT_EQ(first.sole_blocks(), 1);
  EXPECT_EQ(second.sole_blocks(), 1);
  EXPECT_EQ(cache.idle_pages(), 0);
  first = PrefixChain();
  EXPECT_EQ(cache.idle_pages(), 1);
  EXPECT_EQ(Match(base, Tokens(0, 3)).idle_blocks, 1);
  EXPECT_EQ(second.sole_blocks(), 3);
  second = PrefixChain();
  EXPECT_EQ(cache.idle_pages(), 4);
  EXPECT_EQ(cache.stats().idle_blocks, 4);
}

TEST_F(PrefixCacheTest, EvictsLastBlocksFirst) {
  { const PrefixChain chain = Compute(base, Tokens(0, 3)); }
  for (int64_t left = 2; left >= 0; --left) {
    EXPECT_TRUE(cache.EvictOldest());
    EXPECT_EQ(BlocksFound(base, Tokens(0, 3)), left);
  }
  EXPECT_FALSE(cache.EvictOldest());
  EXPECT_EQ(used_pages(), 0);
  EXPECT_EQ(cache.stats().evicted_blocks, 3);
}

TEST_F(PrefixCacheTest, EvictsWhatWasUsedLongestAgo) {
  { const PrefixChain chain = Compute(base, Tokens(0, 2)); }
  { const PrefixChain chain = Compute(base, Tokens(1000, 2)); }
  { const PrefixChain again = cache.Acquire(base, Tokens(0, 2), 1); }  // the first block alone
  EXPECT_TRUE(cache.EvictOldest());
  EXPECT_TRUE(cache.EvictOldest());
  EXPECT_TRUE(cache.EvictOldest());
  EXPECT_EQ(BlocksFound(base, Tokens(1000, 2)), 0);
  EXPECT_EQ(BlocksFound(base, Tokens(0, 2)), 1);
}

TEST_F(PrefixCacheTest, NeverEvictsWhatIsHeld) {
  const PrefixChain held = Compute(base, Tokens(0, 2));
  { const PrefixChain longer = Compute(base, Tokens(0, 4)); }
  EXPECT_TRUE(cache.EvictOldest());
  EXPECT_TRUE(cache.EvictOldest());
  EXPECT_FALSE(cache.EvictOldest());
  EXPECT_EQ(cache.oldest_use(), -1);
  EXPECT_EQ(BlocksFound(base, Tokens(0, 4)), 2);
}

TEST_F(PrefixCacheTest, TheLastUserOfAContentTakesItsBlocksAway) {
  PrefixTreePtr version = cache.TreeOf("adapter aa");
  PrefixChain running = Compute(version, Tokens(0, 2));
  { const PrefixChain other = Compute(version, Tokens(50, 3)); }
  version = nullptr;  // unloaded, but a sequence still runs on it
  EXPECT_EQ(used_pages(), 5);
  running = PrefixChain();
  EXPECT_EQ(used_pages(), 0);
  EXPECT_EQ(cache.idle_pages(), 0);
  EXPECT_EQ(cache.stats().blocks, 0);
  EXPECT_EQ(BlocksFound(cache.TreeOf("adapter aa"), Tokens(0, 2)), 0);
}

TEST_F(PrefixCacheTest, ContentThatAnotherVersionHasToStays) {
  PrefixTreePtr version = cache.TreeOf("adapter aa");
  const PrefixTreePtr same = cache.TreeOf("adapter aa");
  { const PrefixChain chain = Compute(version, Tokens(0, 2)); }
  version = nullptr;
  EXPECT_EQ(BlocksFound(same, Tokens(0, 2)), 2);
}

TEST_F(PrefixCacheTest, ABranchSharesWhatComesBeforeItWithItsTrunk) {
  const PrefixTreePtr branch = cache.BranchesOf({base}, "adapter aa")[0];
  const std::vector<int32_t> tokens = Tokens(0, 4);
  const auto found = [&](const PrefixTreePtr& tree, int64_t own_from) {
    return cache.Match(tree, tokens, 64, own_from).blocks;
  };
  PrefixChain chain = cache.Acquire(branch, tokens, 0, /*own_from=*/40);
  for (int64_t b = 0; b < 4; ++b) chain.Extend(TokensOfBlock(tokens, b), Run());
  EXPECT_EQ(found(base, 0), 2);
  EXPECT_EQ(found(branch, 40), 4);
  EXPECT_EQ(found(branch, 41), 2);  // in the same block, but not at the same position
  EXPECT_EQ(found(branch, 47), 2);
  EXPECT_EQ(found(branch, 48), 2);
  EXPECT_EQ(found(branch, 31), 1);
  EXPECT_EQ(found(branch, 0), 0);
  EXPECT_EQ(found(branch, 64), 2);
  EXPECT_EQ(found(cache.BranchesOf({base}, "adapter ab")[0], 40), 2);
  const PrefixChain of_base = Compute(base, tokens);
  EXPECT_EQ(found(branch, 64), 4);
  EXPECT_EQ(of_base.first_page(1), chain.first_page(1));
  EXPECT_NE(of_base.first_page(2), chain.first_page(2));
  EXPECT_EQ(used_pages(), 6);
}

TEST_F(PrefixCacheTest, ABranchThatNobodyLooksIntoTakesItsOwnBlocksAway) {
  PrefixTreePtr branch = cache.BranchesOf({base}, "adapter aa")[0];
  PrefixTreePtr other = cache.BranchesOf({base}, "adapter ab")[0];
  for (const PrefixTreePtr& tree : {branch, other}) {
    PrefixChain chain = cache.Acquire(tree, {}, 0, /*own_from=*/16);
    for (int64_t b = 0; b < 3; ++b) chain.Extend(TokensOfBlock(Tokens(0, 3), b), Run());
  }
  EXPECT_EQ(used_pages(), 1 + 2 + 2);
  branch = nullptr;
  EXPECT_EQ(used_pages(), 1 + 2);
  EXPECT_EQ(cache.Match(other, Tokens(0, 3), 48, 16).blocks, 3);
  branch = cache.BranchesOf({base}, "adapter aa")[0];
  EXPECT_EQ(cache.Match(branch, Tokens(0, 3), 48, 16).blocks, 1);
}

TEST_F(PrefixCacheTest, TheNextBlockIsTheSameForThoseWhoWillComputeTheSame) {
  const std::vector<int32_t> one = Joined(Tokens(0, 2), Tokens(300, 1));
  const std::vector<int32_t> two = Joined(Tokens(0, 2), Tokens(400, 1));
  const uint64_t next = Match(base, one).next_block;
  EXPECT_NE(next, 0u);
  EXPECT_EQ(next, Match(base, two).next_block);
  EXPECT_NE(next, Match(cache.TreeOf("adapter aa"), one).next_block);
  const PrefixChain chain = Compute(base, Tokens(0, 2));
  EXPECT_NE(Match(base, one).next_block, Match(base, two).next_block);
  EXPECT_EQ(Match(base, one).next_block, chain.KeyOfNext(TokensOfBlock(one, 2)));
  EXPECT_EQ(Match(base, Tokens(0, 2)).next_block, 0u);  // all of it is there
}

TEST_F(PrefixCacheTest, AVeryLongChainGoesWithoutRecursion) {
  const std::unique_ptr<PagePool> large = *PagePool::Create(int64_t{300'000} * 64, 64);
  PrefixCache deep(large.get());
  PrefixTreePtr tree = deep.TreeOf("base");
  PrefixChain chain = deep.Acquire(tree, {}, 0);
  for (int i = 0; i < 300'000; ++i) chain.Extend(BlockTokens{}, *large->Reserve(1, PageOwner::kKv));
  chain = PrefixChain();
  tree = nullptr;
  EXPECT_EQ(large->free_pages(), large->total_pages());
}

// Every hash is the same: what is found must be right all the same.
class CollidingPrefixCacheTest : public PrefixCacheFixture {
 protected:
  CollidingPrefixCacheTest() : PrefixCacheFixture([](const BlockTokens&) { return size_t{7}; }) {}
};

TEST_F(CollidingPrefixCacheTest, ACollisionNeverServesOtherTokens) {
  const PrefixTreePtr base = cache.TreeOf("base");
  const PrefixChain one = Compute(base, Tokens(0, 2));
  EXPECT_EQ(BlocksFound(base, Tokens(1, 2)), 0);
  const PrefixChain two = Compute(base, Tokens(1, 2));
  EXPECT_EQ(BlocksFound(base, Tokens(0, 2)), 2);
  EXPECT_EQ(BlocksFound(base, Tokens(1, 2)), 2);
  std::set<int64_t> blocks;
  for (const PrefixChain* chain : {&one, &two}) blocks.insert({chain->first_page(0), chain->first_page(1)});
  EXPECT_EQ(blocks.size(), 4u);
}

// Random sequences of few different tokens, so that prefixes meet often, on too little memory: what the cache says is
// compared with what the blocks really hold.
class RandomPrefixCacheTest : public PrefixCacheFixture {
 protected:
  // A block's page holds the number of the prefix that ends with it.
  using Prefix = std::pair<std::string, std::vector<int32_t>>;  // content, tokens
  int64_t NumberOf(const Prefix& prefix) { return numbers_.try_emplace(prefix, numbers_.size() + 1).first->second; }

  std::byte* Place(int64_t first_page) { return pages->arena() + first_page * pages->page_bytes(); }

  std::map<Prefix, int64_t> numbers_;
};

TEST_F(RandomPrefixCacheTest, EveryBlockFoundHoldsThatPrefixAndEveryPageIsCounted) {
  struct Live {
    std::string content;
    int64_t own_from;
    std::vector<int32_t> tokens;
    PrefixChain chain;

    // What block `block` was computed from: "d" and "e" are branches of "base".
    Prefix PrefixOf(int64_t block) const {
      const int64_t end = (block + 1) * kKvBlockTokens;
      const bool branch = content == "d" || content == "e";
      return {!branch          ? content
              : end > own_from ? absl::StrCat(content, " from ", own_from)
                               : "base",
              {tokens.begin(), tokens.begin() + end}};
    }
  };
  std::mt19937 random(1);
  const auto draw = [&random](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  std::map<std::string, PrefixTreePtr> trees;
  std::vector<Live> live;
  int64_t hits = 0;
  for (int step = 0; step < 20'000; ++step) {
    static constexpr const char* kContents[] = {"base", "a", "b", "d", "e"};
    const std::string content = kContents[draw(5)];
    if (draw(100) < 2) trees[content] = nullptr;
    if (trees[content] == nullptr) {
      trees[content] = content < "d" ? cache.TreeOf(content) : cache.BranchesOf({cache.TreeOf("base")}, content)[0];
    }
    if (draw(2) == 0 && live.size() < 8) {
      Live sequence;
      sequence.content = content;
      for (int64_t b = draw(7); b >= 0; --b)
        sequence.tokens.insert(sequence.tokens.end(), 16, static_cast<int32_t>(draw(2)));
      sequence.own_from = draw(5) * 13;
      const PrefixMatch match = cache.Match(trees[content], sequence.tokens, 1000, sequence.own_from);
      sequence.chain = cache.Acquire(trees[content], sequence.tokens, match.blocks, sequence.own_from);
      hits += match.blocks;
      live.push_back(std::move(sequence));
    } else if (!live.empty()) {
      Live& sequence = live[static_cast<size_t>(draw(static_cast<int64_t>(live.size())))];
      const int64_t next = sequence.chain.blocks();
      if ((next + 1) * kKvBlockTokens > static_cast<int64_t>(sequence.tokens.size()) || draw(10) == 0) {
        std::swap(sequence, live.back());
        live.pop_back();
      } else {
        while (pages->free_pages() == 0 && cache.EvictOldest()) {
        }
        PageRun run = Run();
        const int64_t number = NumberOf(sequence.PrefixOf(next));
        std::memcpy(run.data(), &number, sizeof(number));
        sequence.chain.Extend(TokensOfBlock(sequence.tokens, next), std::move(run));
      }
    }
    if (draw(50) == 0) pages->Compact(3 * 4096, [](PageOwner) {});

    std::map<int64_t, int64_t> holders;
    for (const Live& sequence : live) {
      for (int64_t b = 0; b < sequence.chain.blocks(); ++b) {
        int64_t number = 0;
        std::memcpy(&number, Place(sequence.chain.first_page(b)), sizeof(number));
        ASSERT_EQ(number, NumberOf(sequence.PrefixOf(b)));
        ++holders[sequence.chain.first_page(b)];
      }
    }
    int64_t idle = 0;
    for (const PrefixCache::View& block : cache.Blocks()) {
      const auto found = holders.find(block.first_page);
      ASSERT_EQ(block.holders, found == holders.end() ? 0 : found->second);
      idle += block.holders == 0;
    }
    ASSERT_EQ(idle, cache.idle_pages());
    ASSERT_EQ(used_pages(), static_cast<int64_t>(cache.Blocks().size()));
  }
  EXPECT_GT(hits, 1000);
  EXPECT_GT(cache.stats().evicted_blocks, 1000);
  live.clear();
  while (cache.EvictOldest()) {
  }
  EXPECT_EQ(used_pages(), 0);
}

}  // namespace
}  // namespace lorad
