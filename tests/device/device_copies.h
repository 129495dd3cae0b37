#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "adapters/slot_table.h"
#include "model/kv/kv_layout.h"
#include "model/ops/linear.h"

namespace lorad {

// The arguments of one operator's call on the device. What shares memory on the host shares its copy, which begins as
// well aligned and ends where that memory ends: what lies around a tensor stays around it, and a tool that watches the
// device's allocations sees whoever leaves it.
class DeviceCopies final {
 public:
  // Undefined for an undefined tensor.
  at::Tensor Of(const at::Tensor& host);
  LinearWeight Of(const LinearWeight& host);
  // nullptr for none.
  template <typename T>
  const T* Of(const T* host, int64_t count) {
    return reinterpret_cast<const T*>(BytesOf(host, count * int64_t{sizeof(T)}));
  }
  // The cache's blocks up to the one that begins at page `last_block`.
  KvView Of(const KvView& host, int64_t last_block);
  // Slots of [experts * rank, in] and [experts * rank, out], of elements so large.
  std::vector<SlotWeights> Of(const SlotWeights* slots, int32_t count, int64_t in, int64_t out, int64_t element_bytes);

  // Everything back to where it came from, whoever wrote it; waits for the device. Passes the status on.
  absl::Status Back(absl::Status status);

 private:
  const std::byte* BytesOf(const void* host, int64_t bytes);
  at::Tensor CopyOf(const void* host, int64_t bytes);

  std::map<const void*, at::Tensor> copies_;  // by where they begin: [bytes] on the device
  struct Counters {
    std::atomic<int64_t>* host;
    std::atomic<int64_t>* shared;  // with the device
    int64_t count;
  };
  std::vector<Counters> counters_;
};

}  // namespace lorad
