#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

namespace lorad::cuda {

// What a launch tells its kernel in arrays: collected on the host, then one copy from pinned memory, queued on the
// current stream. Nothing waits for it.
class Upload final {
 public:
  // Appends count values; where they begin, in bytes.
  template <typename T>
  int64_t Add(const T* values, size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= kAlignment);
    const size_t at = bytes_.size();
    bytes_.resize((at + count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment);
    if (count > 0) std::memcpy(bytes_.data() + at, values, count * sizeof(T));
    return static_cast<int64_t>(at);
  }
  template <typename Range>
  int64_t Add(const Range& values) {
    return Add(values.data(), values.size());
  }

  // To the device of `beside`. Afterwards At gives device addresses, as long as this lives and, since the allocator
  // gives memory back in the stream's order, for all that is queued on the same stream meanwhile.
  void Send(const at::Tensor& beside) {
    const auto bytes = at::TensorOptions().dtype(at::kByte);
    const int64_t size = static_cast<int64_t>(bytes_.size());
    device_ = at::empty({size}, bytes.device(beside.device()));
    if (size == 0) return;  // neither side has an address
    const at::Tensor host = at::empty({size}, bytes.pinned_memory(beside.is_cuda()));
    std::memcpy(host.mutable_data_ptr(), bytes_.data(), bytes_.size());
    device_.copy_(host, /*non_blocking=*/true);
  }
  template <typename T>
  const T* At(int64_t offset) const {
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(device_.const_data_ptr()) + offset);
  }
  // The same as a tensor [count].
  at::Tensor Ints(int64_t offset, int64_t count) const {
    return device_.narrow(0, offset, count * int64_t{sizeof(int32_t)}).view(at::kInt);
  }

 private:
  static constexpr size_t kAlignment = 16;
  std::vector<std::byte> bytes_;
  at::Tensor device_;
};

}  // namespace lorad::cuda
