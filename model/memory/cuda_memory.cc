#include "model/memory/cuda_memory.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/util/Exception.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/base/round_up.h"
#include "model/base/status_macros.h"
#include "model/memory/cuda_chunks.h"
#include "model/memory/cuda_status.h"

namespace lorad::cuda {
namespace {

// Of pinned memory, and so the most that a loader copies at once: a step's own copies, in the same direction, wait
// behind it, 0.1 to 0.2 ms.
constexpr int64_t kPieceBytes = int64_t{4} << 20;
constexpr int64_t kMostScratchBytes = int64_t{16} << 20;
constexpr int64_t kPoolOfScratch = 64;  // so many times the scratch, for small pools

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

// kPieceBytes of pinned memory, and when the copy out of them is done.
class Piece final {
 public:
  Piece() = default;
  ~Piece() {
    if (data_ != nullptr) cudaFreeHost(data_);
    if (done_ != nullptr) cudaEventDestroy(done_);
  }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;

  absl::Status Create() {
    RETURN_IF_ERROR(StatusOf(absl::StrCat("pinned memory, bytes: ", kPieceBytes),
                             cudaHostAlloc(&data_, static_cast<size_t>(kPieceBytes), cudaHostAllocDefault)));
    // Whoever waits sleeps.
    return StatusOf("an event", cudaEventCreateWithFlags(&done_, cudaEventDisableTiming | cudaEventBlockingSync));
  }
  absl::Status Wait() {
    if (!std::exchange(sent_, false)) return absl::OkStatus();
    return StatusOf("a copy to the device", cudaEventSynchronize(done_));
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  absl::Status Send(std::byte* to, int64_t bytes, cudaStream_t stream) {
    RETURN_IF_ERROR(StatusOf("a copy to the device",
                             cudaMemcpyAsync(to, data_, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream)));
    sent_ = true;
    return StatusOf("an event", cudaEventRecord(done_, stream));
  }

 private:
  void* data_ = nullptr;
  cudaEvent_t done_ = nullptr;
  bool sent_ = false;
};

// All pinned memory is there from the start: page-locking takes locks of the driver's for which every stream waits,
// some 0.2 s for a GB. What is larger than a piece goes through pageable memory, piece by piece.
class CudaCopier final : public PieceCopier {
 public:
  absl::Status Create() {
    RETURN_IF_ERROR(stream_.Create());
    for (Piece& piece : pieces_) RETURN_IF_ERROR(piece.Create());
    return absl::OkStatus();
  }

  absl::StatusOr<std::byte*> Next(int64_t bytes) override {
    bytes_ = bytes;
    if (bytes > kPieceBytes) {
      large_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(bytes));
      return large_.get();
    }
    RETURN_IF_ERROR(TakeOther().Wait());
    return pieces_[current_].data();
  }
  absl::Status Send(std::byte* to) override {
    if (bytes_ <= kPieceBytes) return pieces_[current_].Send(to, bytes_, stream_.get());
    for (int64_t done = 0; done < bytes_; done += kPieceBytes) {
      Piece& piece = TakeOther();
      RETURN_IF_ERROR(piece.Wait());
      const int64_t part_bytes = std::min(kPieceBytes, bytes_ - done);
      std::memcpy(piece.data(), large_.get() + done, static_cast<size_t>(part_bytes));
      RETURN_IF_ERROR(piece.Send(to + done, part_bytes, stream_.get()));
    }
    large_.reset();
    return absl::OkStatus();
  }
  absl::Status Finish() override {
    absl::Status status;
    for (Piece& piece : pieces_) status.Update(piece.Wait());
    return status;
  }

 private:
  Piece& TakeOther() { return pieces_[current_ = 1 - current_]; }

  Stream stream_;
  Piece pieces_[2];
  int current_ = 0;
  int64_t bytes_ = 0;  // of what was last asked for
  std::unique_ptr<std::byte[]> large_;
};

absl::StatusOr<std::unique_ptr<PieceCopier>> CreateCopier() {
  auto copier = std::make_unique<CudaCopier>();
  RETURN_IF_ERROR(copier->Create());
  return std::unique_ptr<PieceCopier>(std::move(copier));
}

class CudaMemory final : public PoolMemory {
 public:
  CudaMemory(void* data, int64_t bytes) : PoolMemory(static_cast<std::byte*>(data), bytes) {}
  CudaMemory(std::unique_ptr<CudaChunks> chunks, int64_t bytes)
      : PoolMemory(chunks->data(), bytes), chunks_(std::move(chunks)) {}
  ~CudaMemory() override {
    if (chunks_ == nullptr) cudaFree(data());
    if (scratch_ != nullptr) cudaFree(scratch_);
  }
  absl::Status Create() {
    RETURN_IF_ERROR(moves_.Create());
    scratch_bytes_ = std::min(kMostScratchBytes, bytes() / kPoolOfScratch);
    if (scratch_bytes_ > 0) {
      void* scratch = nullptr;
      RETURN_IF_ERROR(StatusOf(absl::StrCat("memory to move pages over, bytes: ", scratch_bytes_),
                               cudaMalloc(&scratch, static_cast<size_t>(scratch_bytes_))));
      scratch_ = static_cast<std::byte*>(scratch);
    }
    ASSIGN_OR_RETURN(first_copier_, CreateCopier());
    return absl::OkStatus();
  }

  bool on_host() const override { return false; }

  void Move(std::byte* to, const std::byte* from, int64_t bytes) override {
    Slide(to, from, bytes, scratch_, scratch_bytes_);
    Wait();
  }

  void Swap(std::byte* first, int64_t lower_bytes, int64_t upper_bytes) override {
    std::byte* const upper = first + lower_bytes;
    if (std::min(lower_bytes, upper_bytes) > scratch_bytes_) {
      std::vector<std::byte> kept(static_cast<size_t>(upper_bytes));
      Copy(kept.data(), upper, upper_bytes, cudaMemcpyDeviceToHost);
      Wait();
      Slide(first + upper_bytes, first, lower_bytes, scratch_, scratch_bytes_);
      Copy(first, kept.data(), upper_bytes, cudaMemcpyHostToDevice);
      Wait();  // while `kept` is there
    } else if (upper_bytes <= lower_bytes) {
      Copy(scratch_, upper, upper_bytes, cudaMemcpyDeviceToDevice);
      Slide(first + upper_bytes, first, lower_bytes, scratch_ + upper_bytes, scratch_bytes_ - upper_bytes);
      Copy(first, scratch_, upper_bytes, cudaMemcpyDeviceToDevice);
    } else {
      Copy(scratch_, first, lower_bytes, cudaMemcpyDeviceToDevice);
      Slide(first, upper, upper_bytes, scratch_ + lower_bytes, scratch_bytes_ - lower_bytes);
      Copy(first + upper_bytes, scratch_, lower_bytes, cudaMemcpyDeviceToDevice);
    }
    Wait();
  }

  void Discard(std::byte*, int64_t) override {}

  absl::StatusOr<std::unique_ptr<PieceCopier>> NewCopier() override {
    {
      const std::lock_guard<std::mutex> lock(copier_mutex_);
      if (first_copier_ != nullptr) return std::move(first_copier_);
    }
    return CreateCopier();
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
    torch_keeps_ = true;
  }
  int64_t Restore(std::byte* at, int64_t bytes) override {
    const int64_t begin = at - data(), end = begin + bytes;
    // Tensors had it meanwhile, whose memory LibTorch keeps when they are gone. It lets go of that once, and again when
    // there is too little: each time costs steps what it keeps for them.
    if (std::exchange(torch_keeps_, false)) EmptyTorchCache();
    const int64_t restored = chunks_->Restore(begin, end);
    if (restored == end) return bytes;
    EmptyTorchCache();
    return chunks_->Restore(restored, end) - begin;
  }

 private:
  // Queues a move. The two sides of a copy must not overlap: pieces as long as the way, or over a longer scratch, the
  // first where nobody is overwritten.
  void Slide(std::byte* to, const std::byte* from, int64_t bytes, std::byte* scratch, int64_t scratch_bytes) {
    const int64_t way_bytes = std::abs(to - from);
    const int64_t most_bytes = std::max(way_bytes, scratch_bytes);
    for (int64_t done = 0; done < bytes && way_bytes > 0;) {
      const int64_t piece_bytes = std::min(most_bytes, bytes - done);
      const int64_t at = to > from ? bytes - done - piece_bytes : done;
      const std::byte* piece = from + at;
      if (piece_bytes > way_bytes) {
        Copy(scratch, piece, piece_bytes, cudaMemcpyDeviceToDevice);
        piece = scratch;
      }
      Copy(to + at, piece, piece_bytes, cudaMemcpyDeviceToDevice);
      done += piece_bytes;
    }
  }

  static void EmptyTorchCache() {
    try {
      c10::cuda::CUDACachingAllocator::emptyCache();
    } catch (const c10::Error&) {  // of the device, which the next step meets too
    }
  }

  // What can fail here is the device, whose error stays: the next step answers with it.
  static void Check(cudaError_t error) { LORAD_CHECK(error != cudaErrorInvalidValue); }
  void Copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    Check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, moves_.get()));
  }
  void Wait() { Check(cudaStreamSynchronize(moves_.get())); }

  const std::unique_ptr<CudaChunks> chunks_;  // null: memory that stays as it is
  bool torch_keeps_ = false;                  // perhaps, of what was released
  Stream moves_;
  std::byte* scratch_ = nullptr;  // on the device
  int64_t scratch_bytes_ = 0;
  std::mutex copier_mutex_;
  std::unique_ptr<PieceCopier> first_copier_;  // made before anybody is served
};

absl::StatusOr<std::unique_ptr<CudaMemory>> Allocate(int64_t bytes) {
  // Where it cannot go back in chunks, or there is not enough, which is then told as ever.
  if (absl::StatusOr<std::unique_ptr<CudaChunks>> chunks = CudaChunks::Create(bytes); chunks.ok()) {
    return std::make_unique<CudaMemory>(*std::move(chunks), bytes);
  }
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes)); error != cudaSuccess) {
    const int64_t free_bytes = AvailableBytes().value_or(0);
    return StatusOf(absl::StrCat("memory for KV and adapters: bytes: ", bytes, "; free on the device: ", free_bytes),
                    error);
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
