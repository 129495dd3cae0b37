#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/memory/pool_memory.h"

namespace lorad {
namespace {

class HostMemory final : public PoolMemory {
 public:
  HostMemory(std::byte* data, int64_t bytes) : PoolMemory(data, bytes) {}
  ~HostMemory() override { ::munmap(data(), static_cast<size_t>(bytes())); }

  bool on_host() const override { return true; }

  void Move(std::byte* to, const std::byte* from, int64_t bytes) override {
    std::memmove(to, from, static_cast<size_t>(bytes));
  }

  void Swap(std::byte* first, int64_t lower_bytes, int64_t upper_bytes) override {
    const std::vector<std::byte> upper(first + lower_bytes, first + lower_bytes + upper_bytes);
    std::memmove(first + upper_bytes, first, static_cast<size_t>(lower_bytes));
    std::memcpy(first, upper.data(), upper.size());
  }

  void Discard(std::byte* at, int64_t bytes) override {
    static const int64_t system_page_bytes = ::sysconf(_SC_PAGESIZE);
    if ((at - data()) % system_page_bytes != 0 || bytes % system_page_bytes != 0) return;
    ::madvise(at, static_cast<size_t>(bytes), MADV_DONTNEED);
  }

  absl::StatusOr<std::unique_ptr<PieceCopier>> NewCopier() override {
    return absl::FailedPreconditionError("a copier into the host's memory: none; write where the bytes belong");
  }

  std::shared_ptr<void> SharedWithHost(int64_t bytes) override {
    auto shared = std::make_shared<std::vector<int64_t>>(static_cast<size_t>((bytes + 7) / 8));
    return std::shared_ptr<void>(shared, shared->data());
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<PoolMemory>> MapHostMemory(int64_t bytes) {
  void* const data = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot reserve address space in bytes: ", bytes, ": ",
                                                     std::strerror(errno), "; lower --memory-bytes"));
  }
  // A step walks through all of it that is in use; where there are no huge pages, small ones serve.
  ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return std::make_unique<HostMemory>(static_cast<std::byte*>(data), bytes);
}

}  // namespace lorad
