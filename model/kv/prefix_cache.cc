#include "model/kv/prefix_cache.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "model/base/check.h"

namespace lorad {

// A node of a tree; the root has no run and no parent.
struct CachedBlock {
  struct Key {
    BlockTokens tokens;
    uint64_t branch;  // PrefixTree::BranchAt
    bool operator==(const Key&) const = default;
  };
  struct Hasher {
    BlockHash hash;
    size_t operator()(const Key& key) const { return hash(key.tokens); }
  };
  using Followers = std::unordered_map<Key, std::unique_ptr<CachedBlock>, Hasher>;

  explicit CachedBlock(BlockHash hash) : followers(0, Hasher{hash}) {}

  CachedBlock* parent = nullptr;
  const Key* key = nullptr;  // among the parent's followers
  PageRun run;
  int64_t holders = 0;
  int64_t last_use = 0;                          // when it became idle
  std::list<CachedBlock*>::iterator idle_place;  // while idle
  Followers followers;
};

namespace {

CachedBlock* FollowerOf(const CachedBlock& block, const CachedBlock::Key& key) {
  const auto found = block.followers.find(key);
  return found == block.followers.end() ? nullptr : found->second.get();
}

uint64_t NumberOf(const CachedBlock* before, const CachedBlock::Key& key) {
  return absl::HashOf(before, key.tokens, key.branch) | 1;
}

// All blocks below the root, each after the one that it follows.
std::vector<CachedBlock*> AllBelow(const CachedBlock& root) {
  std::vector<CachedBlock*> all;
  const auto put_followers = [&all](const CachedBlock& block) {
    for (const auto& [key, follower] : block.followers) all.push_back(follower.get());
  };
  put_followers(root);
  for (size_t i = 0; i < all.size(); ++i) put_followers(*all[i]);
  return all;
}

}  // namespace

size_t HashOfBlock(const BlockTokens& tokens) { return absl::HashOf(tokens); }

BlockTokens TokensOfBlock(absl::Span<const int32_t> tokens, int64_t block) {
  BlockTokens of_block;
  const absl::Span<const int32_t> from = tokens.subspan(block * kKvBlockTokens, kKvBlockTokens);
  LORAD_CHECK_EQ(from.size(), of_block.size());
  std::copy(from.begin(), from.end(), of_block.begin());
  return of_block;
}

PrefixTree::PrefixTree(PrefixCache* cache, std::string content, PrefixTreePtr trunk, uint64_t number)
    : cache_(cache),
      content_(std::move(content)),
      trunk_(std::move(trunk)),
      number_(number),
      root_(trunk_ == nullptr ? std::make_unique<CachedBlock>(cache->hash_) : nullptr) {}

uint64_t PrefixTree::BranchAt(int64_t block, int64_t own_from) const {
  if (trunk_ == nullptr || (block + 1) * kKvBlockTokens <= own_from) return 0;
  // Where in its first block a branch begins is part of what it is; the block itself says the rest.
  return number_ * kKvBlockTokens + static_cast<uint64_t>(own_from % kKvBlockTokens);
}

PrefixTree::~PrefixTree() { cache_->Clear(this); }

PrefixChain::PrefixChain(PrefixChain&& other) noexcept
    : tree_(std::move(other.tree_)), own_from_(other.own_from_), blocks_(std::exchange(other.blocks_, {})) {}

PrefixChain& PrefixChain::operator=(PrefixChain&& other) noexcept {
  if (this != &other) {
    Release();
    tree_ = std::move(other.tree_);
    own_from_ = other.own_from_;
    blocks_ = std::exchange(other.blocks_, {});
  }
  return *this;
}

PrefixChain::~PrefixChain() { Release(); }

void PrefixChain::Release() {
  for (; !blocks_.empty(); blocks_.pop_back()) tree_->cache_->LetGo(blocks_.back());
  tree_ = nullptr;
}

int64_t PrefixChain::first_page(int64_t block) const { return blocks_[static_cast<size_t>(block)]->run.first_page(); }

int64_t PrefixChain::sole_blocks() const {
  // Who holds a block holds all before it: those of one holder are the last ones.
  const auto first =
      std::partition_point(blocks_.begin(), blocks_.end(), [](const CachedBlock* b) { return b->holders > 1; });
  return blocks_.end() - first;
}

void PrefixChain::Extend(const BlockTokens& tokens, PageRun run) {
  LORAD_CHECK(has_tree() && !run.empty());
  PrefixCache* const cache = tree_->cache_;
  CachedBlock* const last = blocks_.empty() ? tree_->root() : blocks_.back();
  const auto [found, added] =
      last->followers.try_emplace({.tokens = tokens, .branch = tree_->BranchAt(blocks(), own_from_)}, nullptr);
  if (added) {
    found->second = std::make_unique<CachedBlock>(cache->hash_);
    CachedBlock* const block = found->second.get();
    block->parent = last;
    block->key = &found->first;
    block->run = std::move(run);
    block->holders = 1;
    ++cache->stats_.blocks;
  } else {
    cache->Hold(found->second.get());
  }
  blocks_.push_back(found->second.get());
}

uint64_t PrefixChain::KeyOfNext(const BlockTokens& tokens) const {
  LORAD_CHECK(has_tree());
  return NumberOf(blocks_.empty() ? tree_->root() : blocks_.back(),
                  {.tokens = tokens, .branch = tree_->BranchAt(blocks(), own_from_)});
}

PrefixCache::PrefixCache(PagePool* pages, BlockHash hash) : pages_(pages), hash_(hash) {}

PrefixCache::~PrefixCache() { LORAD_CHECK(trees_.empty()); }

PrefixTreePtr PrefixCache::TreeOf(const std::string& content) { return TreeOf(content, /*trunk=*/nullptr); }

PrefixTreePtr PrefixCache::TreeOf(const std::string& content, const PrefixTreePtr& trunk) {
  std::weak_ptr<PrefixTree>& known = trees_[content];
  PrefixTreePtr tree = known.lock();
  if (tree == nullptr) {
    tree = PrefixTreePtr(new PrefixTree(this, content, trunk, ++last_number_));
    known = tree;
  }
  return tree;
}

PrefixTrees PrefixCache::BranchesOf(const PrefixTrees& trunks, const std::string& content) {
  PrefixTrees branches;
  for (size_t i = 0; i < trunks.size(); ++i) {
    if (trunks[i] == nullptr) continue;
    branches[i] = TreeOf(absl::StrCat(content, " on ", trunks[i]->content_), trunks[i]);
  }
  return branches;
}

PrefixTrees PrefixCache::TreesOf(const std::string& content, int64_t last_variant) {
  return {TreeOf(content), last_variant > 0 ? TreeOf(content + ", rotated anew") : nullptr};
}

PrefixMatch PrefixCache::Match(const PrefixTreePtr& tree, absl::Span<const int32_t> tokens, int64_t limit_tokens,
                               int64_t own_from) const {
  PrefixMatch match;
  if (tree == nullptr) return match;
  const CachedBlock* last = tree->root();
  const int64_t full_blocks = std::min(limit_tokens, static_cast<int64_t>(tokens.size())) / kKvBlockTokens;
  for (; match.blocks < full_blocks; ++match.blocks) {
    const CachedBlock::Key wanted = {TokensOfBlock(tokens, match.blocks), tree->BranchAt(match.blocks, own_from)};
    const CachedBlock* const next = FollowerOf(*last, wanted);
    if (next == nullptr) {
      match.next_block = NumberOf(last, wanted);
      break;
    }
    match.idle_blocks += next->holders == 0;
    last = next;
  }
  return match;
}

PrefixChain PrefixCache::Acquire(const PrefixTreePtr& tree, absl::Span<const int32_t> tokens, int64_t blocks,
                                 int64_t own_from) {
  PrefixChain chain(tree, own_from);
  if (tree == nullptr) return chain;
  chain.blocks_.reserve(static_cast<size_t>(blocks));
  CachedBlock* last = tree->root();
  for (int64_t i = 0; i < blocks; ++i) {
    last = FollowerOf(*last, {TokensOfBlock(tokens, i), tree->BranchAt(i, own_from)});
    LORAD_CHECK(last != nullptr);
    Hold(last);
    chain.blocks_.push_back(last);
  }
  return chain;
}

void PrefixCache::Hold(CachedBlock* block) {
  if (block->holders++ > 0) return;
  idle_.erase(block->idle_place);
  idle_pages_ -= block->run.pages();
  --stats_.idle_blocks;
}

void PrefixCache::LetGo(CachedBlock* block) {
  LORAD_CHECK_GT(block->holders, 0);
  if (--block->holders > 0) return;
  block->last_use = pages_->NextUse();
  block->idle_place = idle_.insert(idle_.end(), block);
  idle_pages_ += block->run.pages();
  ++stats_.idle_blocks;
}

void PrefixCache::Remove(CachedBlock* block) {
  LORAD_CHECK(block->holders == 0 && block->followers.empty());
  idle_.erase(block->idle_place);
  idle_pages_ -= block->run.pages();
  --stats_.idle_blocks;
  --stats_.blocks;
  const auto place = block->parent->followers.find(*block->key);
  block->parent->followers.erase(place);
}

bool PrefixCache::EvictOldest() {
  if (idle_.empty()) return false;
  Remove(idle_.front());
  ++stats_.evicted_blocks;
  return true;
}

int64_t PrefixCache::oldest_use() const { return idle_.empty() ? -1 : idle_.front()->last_use; }

void PrefixCache::Clear(PrefixTree* tree) {
  const std::vector<CachedBlock*> blocks = AllBelow(*tree->root());
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    // Nothing but the branch follows what is the branch's.
    const bool own = tree->trunk_ == nullptr || (*block)->key->branch / kKvBlockTokens == tree->number_;
    if (own) Remove(*block);
  }
  // Another tree of that content may have been asked for meanwhile.
  const auto known = trees_.find(tree->content_);
  if (known != trees_.end() && known->second.expired()) trees_.erase(known);
}

std::vector<PrefixCache::View> PrefixCache::Blocks() const {
  std::vector<View> views;
  for (const auto& [content, weak] : trees_) {
    const PrefixTreePtr tree = weak.lock();
    if (tree == nullptr || tree->trunk_ != nullptr) continue;
    for (const CachedBlock* block : AllBelow(*tree->root_)) {
      views.push_back({.first_page = block->run.first_page(), .pages = block->run.pages(), .holders = block->holders});
    }
  }
  return views;
}

}  // namespace lorad
