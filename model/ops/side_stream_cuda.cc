#include <exception>
#include <memory>

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/cuda_ops.h"
#include "model/ops/side_stream.h"

namespace lorad::cuda {
namespace {

// Behind what a stream had when it was recorded last.
class StreamEvent final {
 public:
  StreamEvent() : made_(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)) {}
  ~StreamEvent() {
    if (made_ == cudaSuccess) cudaEventDestroy(event_);
  }
  StreamEvent(const StreamEvent&) = delete;
  StreamEvent& operator=(const StreamEvent&) = delete;

  absl::Status Record(cudaStream_t stream) {
    return StatusOf("event", made_ == cudaSuccess ? cudaEventRecord(event_, stream) : made_);
  }
  absl::Status LetWait(cudaStream_t stream) const { return StatusOf("event", cudaStreamWaitEvent(stream, event_, 0)); }

 private:
  cudaEvent_t event_ = nullptr;
  const cudaError_t made_;
};

class SideStreamOfPool final : public SideStream {
 public:
  absl::Status Queue(absl::FunctionRef<absl::Status()> queue) override {
    RETURN_IF_ERROR(begun_.Record(c10::cuda::getCurrentCUDAStream().stream()));
    RETURN_IF_ERROR(begun_.LetWait(stream_.stream()));
    absl::Status queued;
    {
      const c10::cuda::CUDAStreamGuard aside(stream_);
      queued = queue();
    }
    queued.Update(ended_.Record(stream_.stream()));
    return queued;
  }
  absl::Status Join() override { return ended_.LetWait(c10::cuda::getCurrentCUDAStream().stream()); }

 private:
  const c10::cuda::CUDAStream stream_ = c10::cuda::getStreamFromPool(/*isHighPriority=*/true);
  StreamEvent begun_, ended_;
};

}  // namespace

std::unique_ptr<SideStream> NewSideStream() { return std::make_unique<SideStreamOfPool>(); }

}  // namespace lorad::cuda
