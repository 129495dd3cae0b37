#include "model/memory/join_pages.h"

namespace lorad {

JoinedPages JoinPages(PagePool* pages, int64_t wanted_pages, int64_t bytes_a_call, int64_t* budget_bytes) {
  JoinedPages joined;
  while (joined.more && *budget_bytes > 0 && pages->largest_free_run() < wanted_pages) {
    joined.more =
        pages->Compact(bytes_a_call, [&](PageOwner owner) { joined.moved_adapters |= owner == PageOwner::kAdapter; });
    *budget_bytes -= bytes_a_call;
  }
  return joined;
}

}  // namespace lorad
