#include "scheduler/composed_trees.h"

#include <algorithm>

namespace lorad {
namespace {

constexpr size_t kMostKept = 256;  // without blocks, a tree is a few hundred bytes

}  // namespace

PrefixTrees ComposedTrees::For(const std::string& content, int64_t last_variant, PrefixCache* cache) {
  const auto found = std::find_if(kept_.begin(), kept_.end(), [&](const auto& kept) { return kept.first == content; });
  if (found != kept_.end()) {
    kept_.splice(kept_.begin(), kept_, found);
  } else {
    kept_.emplace_front(content, cache->TreesOf(content, last_variant));
    if (kept_.size() > kMostKept) kept_.pop_back();
  }
  return kept_.front().second;
}

}  // namespace lorad
