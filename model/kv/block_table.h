#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "model/kv/prefix_cache.h"
#include "model/memory/page_pool.h"

namespace lorad {

// The KV blocks of one sequence, in order: first those that the prefix cache knows, which others may use too and nobody
// writes any more, then its own. What it holds is given back when it goes.
class BlockTable final {
 public:
  int64_t size() const { return shared_.blocks() + static_cast<int64_t>(own_.size()); }
  int64_t shared_blocks() const { return shared_.blocks(); }
  bool empty() const { return size() == 0; }
  // Blocks whose memory can be had once the table is cleared.
  int64_t sole_blocks() const { return shared_.sole_blocks() + static_cast<int64_t>(own_.size()); }
  int64_t first_page(int64_t block) const;

  // What the sequence begins with; the table is empty.
  void Adopt(PrefixChain prefix);
  void Append(PageRun block) { own_.push_back(std::move(block)); }
  // Lets others use the blocks that are full: k and v of the first `computed_tokens` of `tokens` are in place.
  void Share(absl::Span<const int32_t> tokens, int64_t computed_tokens);
  // PrefixChain::KeyOfNext of the first block that is not yet full; 0: its tokens are not all known.
  uint64_t NextBlock(absl::Span<const int32_t> tokens) const;
  void Clear();

 private:
  PrefixChain shared_;
  std::vector<PageRun> own_;
};

}  // namespace lorad
