#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// Copies of somebody's bytes into a device's memory, piece by piece and beside the steps. The piece that is written and
// the one that is copied are two: each waits for its own copy alone.
//
// Threads  one.
class PieceCopier {
 public:
  virtual ~PieceCopier() = default;
  // Memory to write the next piece of `bytes` into, until Send.
  virtual absl::StatusOr<std::byte*> Next(int64_t bytes) = 0;
  // Queues the copy of that piece to `to`, in the device's memory.
  virtual absl::Status Send(std::byte* to) = 0;
  // Waits until all that was sent is there.
  virtual absl::Status Finish() = 0;
};

// Where the pages of a pool lie, and who moves bytes there: the host's memory, or a device's, which its kernels and
// copies alone may touch. Torch-free.
//
// Threads  Move, Swap, Discard, Release and Restore: the engine's, while no step is in flight. The others from any.
// Errors   an error of a device stays: the next step and the next copy in answer with it.
class PoolMemory {
 public:
  virtual ~PoolMemory() = default;

  std::byte* data() const { return data_; }  // an address of the memory's own
  int64_t bytes() const { return bytes_; }
  // Whether the host itself reads and writes there; else what goes in goes by a copier.
  virtual bool on_host() const = 0;

  // All are done when they return. Ranges may overlap.
  virtual void Move(std::byte* to, const std::byte* from, int64_t bytes) = 0;
  // The two neighbours at `first` change places.
  virtual void Swap(std::byte* first, int64_t lower_bytes, int64_t upper_bytes) = 0;
  // What is there is not needed any more: the system may have it.
  virtual void Discard(std::byte* at, int64_t bytes) = 0;

  virtual absl::StatusOr<std::unique_ptr<PieceCopier>> NewCopier() = 0;
  // Zeroed memory that host and device both read and write, at one address; nullptr: there is none left.
  virtual std::shared_ptr<void> SharedWithHost(int64_t bytes) = 0;

  // In pieces of so many bytes, counted from data(), memory can go back to whoever else uses the device, while its
  // addresses stay ours; the last piece may be shorter. 0: none can.
  virtual int64_t chunk_bytes() const { return 0; }
  // Of whole chunks, whose content is gone: nobody may touch them until they are restored.
  virtual void Release(std::byte* at, int64_t bytes) {}
  // Gives chunks that were released memory again, with any content. Answers how many bytes have it from `at` on: fewer
  // where the device has no more left.
  virtual int64_t Restore(std::byte* at, int64_t bytes) { return bytes; }

 protected:
  PoolMemory(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}

 private:
  std::byte* const data_;
  const int64_t bytes_;
};

// Address space for `bytes`, in huge pages where the system has them; memory is taken on first use. Errors:
// ResourceExhausted.
absl::StatusOr<std::unique_ptr<PoolMemory>> MapHostMemory(int64_t bytes);

// A device's memory, as the library that has its operators gives it (model/ops/open_cuda.h).
struct DeviceMemory {
  // Errors: ResourceExhausted, with what the device has left.
  absl::StatusOr<std::unique_ptr<PoolMemory>> (*create)(int64_t bytes) = nullptr;
  absl::StatusOr<int64_t> (*available_bytes)() = nullptr;
};

}  // namespace lorad
