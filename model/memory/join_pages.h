#pragma once

#include <cstdint>

#include "model/memory/page_pool.h"

namespace lorad {

struct JoinedPages {
  bool more = true;             // that could still move
  bool moved_adapters = false;  // whose addresses have to be renewed
};

// Moves runs until `wanted_pages` lie free side by side, nothing is left to move, or *budget_bytes, from which each
// call of PagePool::Compact takes `bytes_a_call`, is spent.
JoinedPages JoinPages(PagePool* pages, int64_t wanted_pages, int64_t bytes_a_call, int64_t* budget_bytes);

}  // namespace lorad
