#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/adapter_info.h"

namespace lorad {

// State of the engine after a step, immutable; what lists, metrics and health read without entering the engine.
struct EngineSnapshot {
  int64_t running_sequences = 0;
  int64_t waiting_sequences = 0;
  int64_t total_pages = 0;
  int64_t free_pages = 0;
  int64_t kv_pages = 0;
  int64_t adapter_pages = 0;
  int64_t page_bytes = 0;
  int64_t pages_per_kv_block = 0;
  bool draining = false;
  std::vector<AdapterInfo> adapters;          // by name
  std::vector<std::string> resident_adapters;  // names, in the pool and ready
  std::vector<std::string> waiting_adapters;   // names that waiting requests want
};

}  // namespace lorad
