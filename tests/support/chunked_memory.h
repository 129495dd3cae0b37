#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "model/base/check.h"
#include "model/memory/pool_memory.h"

namespace lorad {

// Stands in for a device's memory in tests of what is above it: the host's, of which chunks go back to a device that
// may have none left when they are wanted again. Who writes into a chunk that is gone is found when it comes again.
class ChunkedMemory final : public PoolMemory {
 public:
  ChunkedMemory(int64_t bytes, int64_t chunk_bytes) : ChunkedMemory(MapHostMemory(bytes).value(), bytes, chunk_bytes) {}

  bool on_host() const override { return true; }
  void Move(std::byte* to, const std::byte* from, int64_t bytes) override { host_->Move(to, from, bytes); }
  void Swap(std::byte* first, int64_t lower_bytes, int64_t upper_bytes) override {
    host_->Swap(first, lower_bytes, upper_bytes);
  }
  void Discard(std::byte*, int64_t) override {}
  absl::StatusOr<std::unique_ptr<PieceCopier>> NewCopier() override { return host_->NewCopier(); }
  std::shared_ptr<void> SharedWithHost(int64_t bytes) override { return host_->SharedWithHost(bytes); }

  int64_t chunk_bytes() const override { return chunk_bytes_; }
  void Release(std::byte* at, int64_t bytes) override {
    ForChunks(at, bytes, [&](int64_t chunk) {
      LORAD_CHECK(!released_[chunk]);
      released_[chunk] = true;
      Fill(chunk, kGone);
    });
  }
  int64_t Restore(std::byte* at, int64_t bytes) override {
    int64_t restored_bytes = 0;
    ForChunks(at, bytes, [&](int64_t chunk) {
      if (device_chunks == 0) return;
      if (device_chunks > 0) --device_chunks;
      LORAD_CHECK(released_[chunk]);
      const std::byte* const begin = data() + chunk * chunk_bytes_;
      LORAD_CHECK_EQ(std::count(begin, begin + SizeOf(chunk), kGone), SizeOf(chunk));
      released_[chunk] = false;
      Fill(chunk, std::byte{0xFF});
      restored_bytes += SizeOf(chunk);
    });
    return restored_bytes;
  }

  int64_t released_bytes() const {
    int64_t bytes = 0;
    for (size_t chunk = 0; chunk < released_.size(); ++chunk) bytes += released_[chunk] ? SizeOf(chunk) : 0;
    return bytes;
  }

  int64_t device_chunks = -1;  // that the device has left; -1: enough

 private:
  static constexpr std::byte kGone{0xDD};

  ChunkedMemory(std::unique_ptr<PoolMemory> host, int64_t bytes, int64_t chunk_bytes)
      : PoolMemory(host->data(), bytes),
        host_(std::move(host)),
        chunk_bytes_(chunk_bytes),
        released_(static_cast<size_t>((bytes + chunk_bytes - 1) / chunk_bytes)) {}

  int64_t SizeOf(int64_t chunk) const { return std::min(chunk_bytes_, bytes() - chunk * chunk_bytes_); }
  void Fill(int64_t chunk, std::byte with) { std::fill_n(data() + chunk * chunk_bytes_, SizeOf(chunk), with); }
  template <typename Visit>
  void ForChunks(std::byte* at, int64_t bytes, const Visit& visit) const {
    LORAD_CHECK_EQ((at - data()) % chunk_bytes_, 0);
    const int64_t end = at - data() + bytes;
    LORAD_CHECK(end % chunk_bytes_ == 0 || end == this->bytes());
    for (int64_t begin = at - data(); begin < end; begin += chunk_bytes_) visit(begin / chunk_bytes_);
  }

  const std::unique_ptr<PoolMemory> host_;
  const int64_t chunk_bytes_;
  std::vector<bool> released_;
};

}  // namespace lorad
