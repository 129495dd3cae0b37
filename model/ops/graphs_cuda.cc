#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/Allocator.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/cuda_ops.h"
#include "model/ops/device_graph.h"
#include "model/ops/torch_errors.h"

namespace lorad::cuda {
namespace {

// LibTorch's calls throw.
template <typename Fn>
absl::Status Tried(std::string_view what, const Fn& fn) {
  try {
    fn();
    return absl::OkStatus();
  } catch (const c10::Error& error) {
    const std::string message = absl::StrCat(std::string(what), ": ", error.what_without_backtrace());
    return IsOutOfMemory(error) ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(std::string(what), ": ", error.what()));
  }
}

// A capture that began or ended by an error leaves LibTorch (2.11) recording for its pool for good: it would take no
// other capture for it, and give none of its memory back. Each call refuses where LibTorch got there itself, and only
// who was still recorded for is a user of the pool that nobody else releases.
void StopRecording(c10::DeviceIndex device, c10::MempoolId_t pool) {
  namespace on_device = c10::cuda::CUDACachingAllocator;
  const auto done = [](const auto& fn) { return Tried("", fn).ok(); };
  if (done([&] { on_device::endAllocateToPool(device, pool); })) done([&] { on_device::releasePool(device, pool); });
  at::HostAllocator* const on_host = at::getHostAllocator(at::kCUDA);
  if (done([&] { on_host->end_allocate_to_pool(pool); })) done([&] { on_host->release_pool(pool); });
}

int64_t FreeBytes() {
  size_t free_bytes = 0, total_bytes = 0;
  return cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess ? static_cast<int64_t>(free_bytes) : 0;
}

class CapturedGraph final : public DeviceGraph {
 public:
  using Pool = std::shared_ptr<const c10::MempoolId_t>;
  explicit CapturedGraph(Pool pool) : pool_(std::move(pool)) {}

  absl::Status Capture(c10::cuda::CUDAStream stream, const std::function<absl::Status()>& queue) {
    const int64_t free_before = FreeBytes();
    absl::Status queued;
    {
      // The default stream cannot be captured. What is captured does not run, so neither waits for the other.
      const c10::cuda::CUDAStreamGuard aside(stream);
      // Of this thread alone: loaders go on allocating and copying beside it.
      absl::Status ended = Tried("capture", [&] { graph_.capture_begin(*pool_, cudaStreamCaptureModeThreadLocal); });
      if (ended.ok()) {
        queued.Update(Tried("capture", [&] { queued = queue(); }));
        ended = Tried("capture", [&] { graph_.capture_end(); });
      }
      if (!ended.ok()) StopRecording(stream.device_index(), *pool_);
      queued.Update(ended);
    }
    cudaGetLastError();  // of a capture that failed: it has been told
    bytes_ = std::max<int64_t>(0, free_before - FreeBytes());
    return queued;
  }

  absl::Status Replay() override {
    return Tried("replay", [&] { graph_.replay(); });
  }
  int64_t bytes() const override { return bytes_; }

 private:
  const Pool pool_;
  at::cuda::CUDAGraph graph_;
  int64_t bytes_ = 0;
};

class GraphFamily final : public DeviceGraphs {
 public:
  absl::StatusOr<std::unique_ptr<DeviceGraph>> Capture(const std::function<absl::Status()>& queue) override {
    absl::StatusOr<std::unique_ptr<DeviceGraph>> captured = TryCapture(queue);
    // A capture's allocations free nothing of LibTorch's cache, Renew did.
    if (absl::IsResourceExhausted(captured.status())) captured = TryCapture(queue);
    return captured;
  }
  void Renew() override {
    pool_.reset();
    // A pool's memory is LibTorch's when its last graph has gone, and the device's by this.
    try {
      c10::cuda::CUDACachingAllocator::emptyCache();
    } catch (const c10::Error&) {  // of the device, which the next step meets too
    }
  }

 private:
  absl::StatusOr<std::unique_ptr<DeviceGraph>> TryCapture(const std::function<absl::Status()>& queue) {
    CapturedGraph::Pool pool = pool_.lock();
    if (pool == nullptr) pool_ = pool = std::make_shared<const c10::MempoolId_t>(at::cuda::graph_pool_handle());
    auto graph = std::make_unique<CapturedGraph>(std::move(pool));
    if (absl::Status status = graph->Capture(stream_, queue); !status.ok()) {
      graph.reset();
      Renew();
      return status;
    }
    return std::unique_ptr<DeviceGraph>(std::move(graph));
  }

  // One for all: cuBLAS keeps a workspace for each stream that it has seen.
  const c10::cuda::CUDAStream stream_ = c10::cuda::getStreamFromPool();
  // Goes with its last graph: LibTorch takes up none that has had users and has none.
  std::weak_ptr<const c10::MempoolId_t> pool_;
};

}  // namespace

std::unique_ptr<DeviceGraphs> NewGraphs() { return std::make_unique<GraphFamily>(); }

}  // namespace lorad::cuda
