#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/adapter_info.h"

namespace lorad {

// Every adapter as of one change of the table; shared by the snapshots until the next change, so that ten thousand
// names cost a step nothing.
struct AdapterListing {
  std::vector<std::shared_ptr<const AdapterInfo>>
      all;                            // by name; a name may be listed again while an old version drains
  std::vector<std::string> resident;  // names, in the pool and ready
  std::vector<std::string> running;   // names that running requests use
  std::vector<std::string> waiting;   // names that waiting requests want
};

// Of the prefix cache; evictions and tokens since the start.
struct PrefixCacheSnapshot {
  int64_t cached_blocks = 0;  // held by sequences or idle
  int64_t evicted_blocks = 0;
  int64_t query_tokens = 0;  // of prompts looked up
  int64_t hit_tokens = 0;    // of them, found
};

// State of the engine after a step, immutable; what lists, metrics and health read without entering the engine.
struct EngineSnapshot {
  int64_t running_sequences = 0;
  int64_t waiting_sequences = 0;
  int64_t total_pages = 0;
  int64_t free_pages = 0;
  int64_t kv_pages = 0;      // in use by sequences
  int64_t cached_pages = 0;  // of KV blocks that are kept in case somebody needs them again
  int64_t adapter_pages = 0;
  int64_t warm_adapters = 0;  // kept packed in host memory, resident ones as well
  int64_t warm_bytes = 0;
  int64_t tuning_pages = 0;  // held by training, outside the arena
  int64_t page_bytes = 0;
  int64_t pages_per_kv_block = 0;
  PrefixCacheSnapshot prefix_cache;
  bool draining = false;
  std::shared_ptr<const AdapterListing> adapters = std::make_shared<const AdapterListing>();  // never null
};

}  // namespace lorad
