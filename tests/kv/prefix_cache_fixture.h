#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "model/kv/prefix_cache.h"

namespace lorad {

// A cache over a small pool; a KV block takes one page.
class PrefixCacheFixture : public testing::Test {
 protected:
  static constexpr int64_t kPages = 64;

  explicit PrefixCacheFixture(BlockHash hash = &HashOfBlock) : cache(pages.get(), hash) {}

  static std::vector<int32_t> Tokens(int32_t first, int64_t blocks) {
    std::vector<int32_t> tokens(static_cast<size_t>(blocks * kKvBlockTokens));
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
  }
  static std::vector<int32_t> Joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  PageRun Run() { return *pages->Reserve(1, PageOwner::kKv); }

  // What a sequence of `tokens` does: takes what is there, computes the rest, shares it.
  PrefixChain Compute(const PrefixTreePtr& tree, const std::vector<int32_t>& tokens) {
    PrefixChain chain = cache.Acquire(tree, tokens, BlocksFound(tree, tokens));
    while ((chain.blocks() + 1) * kKvBlockTokens <= static_cast<int64_t>(tokens.size())) {
      chain.Extend(TokensOfBlock(tokens, chain.blocks()), Run());
    }
    return chain;
  }
  PrefixMatch Match(const PrefixTreePtr& tree, const std::vector<int32_t>& tokens) const {
    return cache.Match(tree, tokens, static_cast<int64_t>(tokens.size()));
  }
  int64_t BlocksFound(const PrefixTreePtr& tree, const std::vector<int32_t>& tokens) const {
    return Match(tree, tokens).blocks;
  }
  int64_t used_pages() const { return pages->used_pages(PageOwner::kKv); }

  const std::unique_ptr<PagePool> pages = *PagePool::Create(kPages * 4096, 4096);
  PrefixCache cache;
};

}  // namespace lorad
