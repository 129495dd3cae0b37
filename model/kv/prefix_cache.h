#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "model/kv/kv_layout.h"
#include "model/memory/page_pool.h"

namespace lorad {

using BlockTokens = std::array<int32_t, kKvBlockTokens>;
using BlockHash = size_t (*)(const BlockTokens& tokens);
size_t HashOfBlock(const BlockTokens& tokens);
// Those of the block's kKvBlockTokens positions; all of them are known.
BlockTokens TokensOfBlock(absl::Span<const int32_t> tokens, int64_t block);

struct CachedBlock;
class PrefixCache;

class PrefixTree;
using PrefixTreePtr = std::shared_ptr<PrefixTree>;  // null: nothing is cached

// The cached blocks of one content: the base, or one adapter's weights. Lives as long as somebody may look into it;
// with the last of them its blocks go.
//
// A branch is the tree of a content that begins as another one: up to a position that each chain names (`own_from`),
// KV is the trunk's, and its blocks lie in the trunk, for both to use.
class PrefixTree final {
 public:
  ~PrefixTree();
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

 private:
  friend class PrefixCache;
  friend class PrefixChain;
  PrefixTree(PrefixCache* cache, std::string content, PrefixTreePtr trunk, uint64_t number);
  CachedBlock* root() const { return trunk_ == nullptr ? root_.get() : trunk_->root_.get(); }
  // What tells block `block` of a chain from others with its tokens; 0: the trunk's, or of a tree that has none.
  uint64_t BranchAt(int64_t block, int64_t own_from) const;

  PrefixCache* const cache_;
  const std::string content_;
  const PrefixTreePtr trunk_;                // null: it has blocks of its own from the first on
  const uint64_t number_;                    // never used again
  const std::unique_ptr<CachedBlock> root_;  // null: the trunk's
};
// Of one content, by RopeSwitch's variant: keys that were rotated otherwise are others. Later variants are not cached.
using PrefixTrees = std::array<PrefixTreePtr, 2>;

// Blocks from the first token on, held: none of them is evicted or changes. Given back from the last to the first.
class PrefixChain final {
 public:
  PrefixChain() = default;  // of no tree: never longer
  PrefixChain(PrefixChain&& other) noexcept;
  PrefixChain& operator=(PrefixChain&& other) noexcept;
  ~PrefixChain();

  bool has_tree() const { return tree_ != nullptr; }
  int64_t blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t first_page(int64_t block) const;
  // Blocks that nobody else holds: so many become evictable when the chain goes.
  int64_t sole_blocks() const;

  // Makes `run`, which holds k and v of `tokens` after the chain's last block, the next one. Where the tree has that
  // block already, the chain goes on with that one, and `run` is given back.
  void Extend(const BlockTokens& tokens, PageRun run);

  // Stands for the block that would follow with `tokens`; equal for equal blocks, never 0.
  uint64_t KeyOfNext(const BlockTokens& tokens) const;

 private:
  friend class PrefixCache;
  PrefixChain(PrefixTreePtr tree, int64_t own_from) : tree_(std::move(tree)), own_from_(own_from) {}
  void Release();
  PrefixTreePtr tree_;
  int64_t own_from_ = 0;
  std::vector<CachedBlock*> blocks_;
};

// What of a sequence's tokens is cached.
struct PrefixMatch {
  int64_t blocks = 0;
  int64_t idle_blocks = 0;  // of them, held by nobody: memory that was to be had until they are taken
  uint64_t next_block = 0;  // PrefixChain::KeyOfNext of the first one that is not; 0: there is none within the limit
};

struct PrefixCacheStats {
  int64_t blocks = 0;          // cached now
  int64_t idle_blocks = 0;     // of them, held by nobody
  int64_t evicted_blocks = 0;  // since the start; blocks of a content that went are not counted
};

// Full KV blocks by content and tokens, so that sequences which begin alike compute the common part once.
//
// A block's identity is its place in a tree: the content (a digest of weights, never a name), the tokens before it, its
// own tokens. All are compared in full; the hash only finds them sooner. A block is held by the sequences that use it,
// or idle. Idle ones are evicted in the order of their last use, and a block always before the one that it follows: who
// holds a block holds all before it, and lets go of the last first.
//
// Threads  engine thread only. Lives longer than its chains and trees, shorter than the pool.
// Source   vLLM's automatic prefix caching (full blocks, last token always computed), SGLang's radix tree
//          (arXiv 2312.07104); the key is the digest of an adapter's content, not its name or path (vllm issue 42125).
class PrefixCache final {
 public:
  explicit PrefixCache(PagePool* pages, BlockHash hash = &HashOfBlock);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The tree of `content`, shared by all that ask for it while one of them keeps it.
  PrefixTreePtr TreeOf(const std::string& content);
  PrefixTrees TreesOf(const std::string& content, int64_t last_variant);
  // The branches of `content` on each of `trunks`.
  PrefixTrees BranchesOf(const PrefixTrees& trunks, const std::string& content);

  // Cached blocks that `tokens` begin with, within the first `limit_tokens` of them. `own_from`, of a branch: the
  // position from which KV is of its own content.
  PrefixMatch Match(const PrefixTreePtr& tree, absl::Span<const int32_t> tokens, int64_t limit_tokens,
                    int64_t own_from = 0) const;
  // The first `blocks` of what Match found, held.
  PrefixChain Acquire(const PrefixTreePtr& tree, absl::Span<const int32_t> tokens, int64_t blocks,
                      int64_t own_from = 0);

  // Gives back the block that has been idle for longest. False: none is idle.
  bool EvictOldest();
  // PagePool::NextUse when that block was let go of; -1: none is idle.
  int64_t oldest_use() const;
  int64_t idle_pages() const { return idle_pages_; }
  const PrefixCacheStats& stats() const { return stats_; }

  // Every cached block: for tests and for the invariants checker.
  struct View {
    int64_t first_page = 0;
    int64_t pages = 0;
    int64_t holders = 0;
  };
  std::vector<View> Blocks() const;

 private:
  friend class PrefixTree;
  friend class PrefixChain;
  void Hold(CachedBlock* block);
  void LetGo(CachedBlock* block);
  void Remove(CachedBlock* block);  // idle, and followed by none
  void Clear(PrefixTree* tree);
  PrefixTreePtr TreeOf(const std::string& content, const PrefixTreePtr& trunk);

  PagePool* const pages_;
  const BlockHash hash_;
  std::map<std::string, std::weak_ptr<PrefixTree>> trees_;
  uint64_t last_number_ = 0;      // of a tree
  std::list<CachedBlock*> idle_;  // oldest use first, hence every block before the one that it follows
  int64_t idle_pages_ = 0;
  PrefixCacheStats stats_;
};

}  // namespace lorad
