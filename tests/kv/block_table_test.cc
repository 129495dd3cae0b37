#include "model/kv/block_table.h"

#include "tests/kv/prefix_cache_fixture.h"

namespace lorad {
namespace {

class BlockTableTest : public PrefixCacheFixture {
 protected:
  BlockTable TableOf(const PrefixTreePtr& tree, const std::vector<int32_t>& tokens) {
    BlockTable table;
    table.Adopt(cache.Acquire(tree, tokens, BlocksFound(tree, tokens)));
    return table;
  }
  PrefixTreePtr base = cache.TreeOf("base");
};

TEST_F(BlockTableTest, SharesFullBlocksOnly) {
  const std::vector<int32_t> tokens = Tokens(0, 3);
  BlockTable table = TableOf(base, tokens);
  for (int i = 0; i < 3; ++i) table.Append(Run());
  const int64_t third = table.first_page(2);
  table.Share(tokens, 47);
  EXPECT_EQ(table.shared_blocks(), 2);
  EXPECT_EQ(table.size(), 3);
  EXPECT_EQ(table.first_page(2), third);
  EXPECT_EQ(BlocksFound(base, tokens), 2);
}

TEST_F(BlockTableTest, AFullBlockThatIsThereAlreadyReplacesItsOwn) {
  const std::vector<int32_t> tokens = Tokens(0, 2);
  BlockTable one = TableOf(base, tokens);
  BlockTable two = TableOf(base, tokens);
  for (BlockTable* table : {&one, &two}) {
    table->Append(Run());
    table->Append(Run());
    table->Share(tokens, 32);
  }
  EXPECT_EQ(one.first_page(0), two.first_page(0));
  EXPECT_EQ(one.first_page(1), two.first_page(1));
  EXPECT_EQ(used_pages(), 2);
}

TEST_F(BlockTableTest, ClearingLeavesSharedBlocksToBeFound) {
  const std::vector<int32_t> tokens = Tokens(0, 2);
  BlockTable table = TableOf(base, tokens);
  table.Append(Run());
  table.Append(Run());
  table.Share(tokens, 20);
  EXPECT_EQ(table.sole_blocks(), 2);
  table.Clear();
  EXPECT_TRUE(table.empty());
  EXPECT_EQ(used_pages(), 1);
  EXPECT_EQ(cache.idle_pages(), 1);
  EXPECT_EQ(TableOf(base, tokens).size(), 1);
}

TEST_F(BlockTableTest, WithoutATreeNothingIsShared) {
  BlockTable table;
  table.Append(Run());
  table.Share(Tokens(0, 1), 16);
  EXPECT_EQ(table.shared_blocks(), 0);
  EXPECT_EQ(table.NextBlock(Tokens(0, 2)), 0u);
  table.Clear();
  EXPECT_EQ(used_pages(), 0);
}

TEST_F(BlockTableTest, TheNextBlockNeedsAllItsTokens) {
  const std::vector<int32_t> tokens = Tokens(0, 2);
  BlockTable table = TableOf(base, tokens);
  EXPECT_EQ(table.NextBlock(tokens), Match(base, tokens).next_block);
  EXPECT_EQ(table.NextBlock(absl::MakeConstSpan(tokens).subspan(0, 15)), 0u);
}

}  // namespace
}  // namespace lorad
