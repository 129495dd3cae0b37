#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <utility>

#include "model/kv/prefix_cache.h"

namespace lorad {

// The prefix trees of compositions. A tree lives while somebody keeps it; an adapter's version keeps its own, but a
// composition has none: those that were asked for last are kept here. Engine thread.
class ComposedTrees final {
 public:
  PrefixTrees For(const std::string& content, int64_t last_variant, PrefixCache* cache);

 private:
  std::list<std::pair<std::string, PrefixTrees>> kept_;  // by content, asked for last first
};

}  // namespace lorad
