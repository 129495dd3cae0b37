#include "model/kv/block_table.h"

#include <utility>

#include "model/base/check.h"

namespace lorad {
int64_t BlockTable::first_page(int64_t block) const {
  const int64_t shared = shared_.blocks();
  return block < shared ? shared_.first_page(block) : own_[static_cast<size_t>(block - shared)].first_page();
}

void BlockTable::Adopt(PrefixChain prefix) {
  LORAD_CHECK(empty());
  shared_ = std::move(prefix);
}

void BlockTable::Share(absl::Span<const int32_t> tokens, int64_t computed_tokens) {
  if (!shared_.has_tree()) return;
  size_t taken = 0;
  while ((shared_.blocks() + 1) * kKvBlockTokens <= computed_tokens) {
    shared_.Extend(TokensOfBlock(tokens, shared_.blocks()), std::move(own_[taken++]));
  }
  own_.erase(own_.begin(), own_.begin() + static_cast<int64_t>(taken));
}

uint64_t BlockTable::NextBlock(absl::Span<const int32_t> tokens) const {
  const int64_t block = shared_.blocks();
  if (!shared_.has_tree() || (block + 1) * kKvBlockTokens > static_cast<int64_t>(tokens.size())) return 0;
  return shared_.KeyOfNext(TokensOfBlock(tokens, block));
}

void BlockTable::Clear() {
  own_.clear();
  shared_ = PrefixChain();
}

}  // namespace lorad
