#include "model/memory/cuda_memory.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/util/Exception.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/base/round_up.h"
#include "model/base/status_macros.h"
#include "model/memory/cuda_chunks.h"

namespace lorad::cuda {
namespace {

constexpr int64_t kPieceStepBytes = int64_t{1} << 20;
constexpr int64_t kKeptPieceBytes = int64_t{64} << 20;  // of pinned memory, from one adapter to the next

absl::Status StatusOf(std::string_view what, cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // LibTorch asks for the last error behind its own launches: this one has been told
  const std::string message = absl::StrCat(std::string(what), ": CUDA: ", cudaGetErrorString(error));
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
}

// Neither waits for the default stream nor is waited for by it.
class Stream final {
 public:
  Stream() = default;
  ~Stream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  absl::Status Create() { return StatusOf("a stream", cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// Pinned memory, and when the copy out of it is done.
class Piece final {
 public:
  Piece() = default;
  ~Piece() {
    Release();
    if (done_ != nullptr) cudaEventDestroy(done_);
  }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;

  absl::Status Create() {
    // Whoever waits sleeps.
    return StatusOf("an event", cudaEventCreateWithFlags(&done_, cudaEventDisableTiming | cudaEventBlockingSync));
  }
  absl::Status Wait() {
    if (!std::exchange(sent_, false)) return absl::OkStatus();
    return StatusOf("a copy to the device", cudaEventSynchronize(done_));
  }
  absl::StatusOr<std::byte*> Reserve(int64_t bytes) {
    RETURN_IF_ERROR(Wait());
    bytes_ = bytes;
    if (bytes > capacity_bytes_) {
      Release();
      const int64_t rounded = RoundUp(bytes, kPieceStepBytes);
      RETURN_IF_ERROR(StatusOf(absl::StrCat("pinned memory, bytes: ", rounded),
                               cudaHostAlloc(&data_, static_cast<size_t>(rounded), cudaHostAllocDefault)));
      capacity_bytes_ = rounded;
    }
    return static_cast<std::byte*>(data_);
  }
  absl::Status Send(std::byte* to, cudaStream_t stream) {
    RETURN_IF_ERROR(StatusOf("a copy to the device",
                             cudaMemcpyAsync(to, data_, static_cast<size_t>(bytes_), cudaMemcpyHostToDevice, stream)));
    sent_ = true;
    return StatusOf("an event", cudaEventRecord(done_, stream));
  }
  void Shrink() {
    if (capacity_bytes_ > kKeptPieceBytes) Release();
  }

 private:
  void Release() {
    if (data_ != nullptr) cudaFreeHost(data_);
    data_ = nullptr;
    capacity_bytes_ = 0;
  }

  void* data_ = nullptr;
  int64_t capacity_bytes_ = 0;
  int64_t bytes_ = 0;  // in use
  cudaEvent_t done_ = nullptr;
  bool sent_ = false;
};

class CudaCopier final : public PieceCopier {
 public:
  absl::Status Create() {
    RETURN_IF_ERROR(stream_.Create());
    for (Piece& piece : pieces_) RETURN_IF_ERROR(piece.Create());
    return absl::OkStatus();
  }

  absl::StatusOr<std::byte*> Next(int64_t bytes) override {
    current_ = 1 - current_;
    return pieces_[current_].Reserve(bytes);
  }
  absl::Status Send(std::byte* to) override { return pieces_[current_].Send(to, stream_.get()); }
  absl::Status Finish() override {
    absl::Status status;
    for (Piece& piece : pieces_) {
      status.Update(piece.Wait());
      piece.Shrink();
    }
    return status;
  }

 private:
  Stream stream_;
  Piece pieces_[2];
  int current_ = 0;
};

class CudaMemory final : public PoolMemory {
 public:
  CudaMemory(void* data, int64_t bytes) : PoolMemory(static_cast<std::byte*>(data), bytes) {}
  CudaMemory(std::unique_ptr<CudaChunks> chunks, int64_t bytes)
      : PoolMemory(chunks->data(), bytes), chunks_(std::move(chunks)) {}
  ~CudaMemory() override {
    if (chunks_ == nullptr) cudaFree(data());
  }
  absl::Status Create() { return moves_.Create(); }

  bool on_host() const override { return false; }

  void Move(std::byte* to, const std::byte* from, int64_t bytes) override {
    // The two sides of a copy must not overlap: pieces as long as the way, the first where nobody is overwritten.
    const int64_t way_bytes = std::abs(to - from);
    for (int64_t done = 0; done < bytes && way_bytes > 0;) {
      const int64_t piece_bytes = std::min(way_bytes, bytes - done);
      const int64_t at = to > from ? bytes - done - piece_bytes : done;
      Copy(to + at, from + at, piece_bytes, cudaMemcpyDeviceToDevice);
      done += piece_bytes;
    }
    Wait();
  }

  void Swap(std::byte* first, int64_t lower_bytes, int64_t upper_bytes) override {
    std::vector<std::byte> upper(static_cast<size_t>(upper_bytes));
    Copy(upper.data(), first + lower_bytes, upper_bytes, cudaMemcpyDeviceToHost);
    Wait();
    Move(first + upper_bytes, first, lower_bytes);
    Copy(first, upper.data(), upper_bytes, cudaMemcpyHostToDevice);
    Wait();
  }

  void Discard(std::byte*, int64_t) override {}

  absl::StatusOr<std::unique_ptr<PieceCopier>> NewCopier() override {
    auto copier = std::make_unique<CudaCopier>();
    RETURN_IF_ERROR(copier->Create());
    return std::unique_ptr<PieceCopier>(std::move(copier));
  }

  std::shared_ptr<void> SharedWithHost(int64_t bytes) override {
    void* data = nullptr;
    const cudaError_t error =
        cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocMapped | cudaHostAllocPortable);
    if (!StatusOf("shared memory", error).ok()) return nullptr;
    std::fill_n(static_cast<std::byte*>(data), bytes, std::byte{0});
    return std::shared_ptr<void>(data, [](void* shared) { cudaFreeHost(shared); });
  }

  int64_t chunk_bytes() const override { return chunks_ == nullptr ? 0 : chunks_->chunk_bytes(); }
  void Release(std::byte* at, int64_t bytes) override {
    Check(cudaDeviceSynchronize());  // taking memory away waits for nobody
    chunks_->Release(at - data(), at - data() + bytes);
  }
  int64_t Restore(std::byte* at, int64_t bytes) override {
    // Tensors had it meanwhile, whose memory LibTorch keeps when they are gone.
    try {
      c10::cuda::CUDACachingAllocator::emptyCache();
    } catch (const c10::Error&) {  // of the device, which the next step meets too
    }
    return chunks_->Restore(at - data(), at - data() + bytes) - (at - data());
  }

 private:
  // What can fail here is the device, whose error stays: the next step answers with it.
  static void Check(cudaError_t error) { LORAD_CHECK(error != cudaErrorInvalidValue); }
  void Copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    Check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, moves_.get()));
  }
  void Wait() { Check(cudaStreamSynchronize(moves_.get())); }

  const std::unique_ptr<CudaChunks> chunks_;  // null: memory that stays as it is
  Stream moves_;
};

absl::StatusOr<std::unique_ptr<CudaMemory>> Allocate(int64_t bytes) {
  // Where it cannot go back in chunks, or there is not enough, which is then told as ever.
  if (absl::StatusOr<std::unique_ptr<CudaChunks>> chunks = CudaChunks::Create(bytes); chunks.ok()) {
    return std::make_unique<CudaMemory>(*std::move(chunks), bytes);
  }
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes)); error != cudaSuccess) {
    const absl::Status status = StatusOf("memory for KV and adapters on the device", error);
    return absl::Status(status.code(), absl::StrCat(status.message(), "; bytes: ", bytes, "; free on the device: ",
                                                    AvailableBytes().value_or(0), "; lower --memory-bytes"));
  }
  return std::make_unique<CudaMemory>(data, bytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PoolMemory>> CreateMemory(int64_t bytes) {
  ASSIGN_OR_RETURN(std::unique_ptr<CudaMemory> memory, Allocate(bytes));
  RETURN_IF_ERROR(memory->Create());
  return std::unique_ptr<PoolMemory>(std::move(memory));
}

absl::StatusOr<int64_t> AvailableBytes() {
  size_t free_bytes = 0, total_bytes = 0;
  RETURN_IF_ERROR(StatusOf("the device's memory", cudaMemGetInfo(&free_bytes, &total_bytes)));
  return static_cast<int64_t>(free_bytes);
}

}  // namespace lorad::cuda
