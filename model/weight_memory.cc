#include "model/weight_memory.h"

#include <sys/mman.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/ScalarType.h>
#include <c10/util/accumulate.h>

#include "model/base/round_up.h"

namespace lorad {
namespace {

constexpr int64_t kHugePageBytes = int64_t{2} << 20;
constexpr int64_t kAlignmentBytes = 64;

}  // namespace

class WeightMemory::Region final {
 public:
  explicit Region(int64_t bytes) : mapped_bytes_(RoundUp(bytes, kHugePageBytes) + kHugePageBytes) {
    mapped_ = ::mmap(nullptr, static_cast<size_t>(mapped_bytes_), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped_ == MAP_FAILED) return;
    const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(mapped_));
    const int64_t skipped_bytes = RoundUp(address, kHugePageBytes) - address;
    data_ = static_cast<std::byte*>(mapped_) + skipped_bytes;
    bytes_ = bytes;
    // Where there are no huge pages the region has small ones.
    ::madvise(data_, static_cast<size_t>(mapped_bytes_ - skipped_bytes), MADV_HUGEPAGE);
  }
  ~Region() {
    if (mapped_ != MAP_FAILED) ::munmap(mapped_, static_cast<size_t>(mapped_bytes_));
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  const int64_t mapped_bytes_;
  void* mapped_ = MAP_FAILED;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

WeightMemory::WeightMemory(int64_t capacity_bytes) : region_(std::make_shared<const Region>(capacity_bytes)) {}

at::Tensor WeightMemory::Empty(at::IntArrayRef shape, at::ScalarType dtype) {
  const at::TensorOptions options = at::TensorOptions().dtype(dtype);
  const auto element_bytes = static_cast<int64_t>(c10::elementSize(dtype));
  const int64_t bytes = RoundUp(c10::multiply_integers(shape) * element_bytes, kAlignmentBytes);
  if (bytes > region_->bytes() - used_bytes_) return at::empty(shape, options);
  std::byte* data = region_->data() + used_bytes_;
  used_bytes_ += bytes;
  return at::from_blob(
      data, shape, [region = region_](void*) {}, options);
}

}  // namespace lorad
