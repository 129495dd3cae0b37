#pragma once

#include <cstdint>
#include <string>

#include "bench/llama_folder.h"

namespace lorad::bench {

// Adapters of a Llama on the four matrices of attention, as PEFT's folders with random weights; gone at the end.
class AdapterFolders final {
 public:
  explicit AdapterFolders(const ModelShape& shape) : shape_(shape) {}

  // The folder of an adapter; those of one rank share it.
  std::string Of(int64_t rank) const;
  // A folder with sub-folders named a0 to a(count - 1), which are loaded at their first use. `name`: a new one.
  std::string ToFind(const std::string& name, int64_t count, int64_t rank) const;
  // What an adapter of this rank takes of a pool, in bf16.
  int64_t PoolBytes(int64_t rank, int64_t page_bytes) const;

 private:
  const ModelShape shape_;
  const TemporaryFolder folder_;
};

}  // namespace lorad::bench
