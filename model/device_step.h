#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/util/Exception.h>

#include "absl/status/status.h"
#include "model/base/guarded.h"
#include "model/forward_batch.h"

namespace lorad {

// What of a step goes to a device, in one copy, and comes back.

// The batch with its tensors on `device`, with the tokens that it names as draws; what is not defined stays so. Nothing
// waits: the copy is queued on the current stream. Throws what goes wrong.
ForwardBatch BatchOn(at::Device device, const ForwardBatch& batch);

// A batch as the host made it, and with its tensors on the model's device; on the CPU both are the same.
struct PlacedBatch {
  ForwardBatch on_host;
  ForwardBatch on_device;
};
PlacedBatch Place(at::Device device, ForwardBatch batch);

// The host's tensor on `device`; itself where that is the CPU. Nothing waits.
at::Tensor OnDevice(at::Device device, const at::Tensor& host);

// The tensor, say the logits [L, V], on the host; itself where it lies there. Waits for all that is queued on the
// current stream, also where it is empty.
at::Tensor ToHost(const at::Tensor& tensor);

// The same, queued: pinned memory that holds it once the stream has come here. What lies on the host is itself.
at::Tensor QueueToHost(const at::Tensor& tensor);

// Calls fn(first, on_host) for pieces of a tensor's rows [R, n] on the host: on_host [some, n] are rows first.., at
// most so many bytes of them, but one row at least; where they lie there, all at once. LibTorch keeps what pinned
// memory it has ever taken, a power of two of bytes each: what is large is not to go through it whole.
void ToHostInPieces(const at::Tensor& rows, int64_t most_bytes,
                    const std::function<void(int64_t first, const at::Tensor& on_host)>& fn);

// A place in what is queued on the current stream of a device: behind all that was queued when it was made.
class StreamMark final {
 public:
  StreamMark() = default;  // behind nothing
  explicit StreamMark(at::Device device);
  // Returns when the device has come there; at once for the CPU. Throws what the device answers.
  void Await() const;

 private:
  std::unique_ptr<c10::Event> event_;  // null: nothing to wait for
};

// Waits for all that is queued on the current stream; not for the CPU. An error of the device stays: what is asked of
// it next answers with it.
void AwaitDevice(at::Device device);

// ResourceExhausted where memory is full, which LibTorch tells by exceptions of its own; else Internal. Without the
// stack trace of LibTorch's messages, kilobytes that say nothing to whoever asked.
absl::Status StatusOf(const c10::Error& error);

// Calls fn. What LibTorch throws becomes a status' exception.
template <typename Fn>
auto WithDeviceMemory(const Fn& fn) {
  try {
    return fn();
  } catch (const c10::Error& error) {
    throw StatusException(StatusOf(error));
  }
}

// Guarded, of what computes on a device.
template <typename Fn>
auto GuardedOnDevice(const Fn& fn) -> decltype(fn()) {
  return Guarded([&]() -> decltype(fn()) { return WithDeviceMemory(fn); });
}

// Waits for the current stream of `device` when it goes: a step that ends by an exception too leaves nothing running
// on pages that may be somebody else's next.
class QuietAtEnd final {
 public:
  explicit QuietAtEnd(at::Device device) : device_(device) {}
  ~QuietAtEnd() { AwaitDevice(device_); }
  QuietAtEnd(const QuietAtEnd&) = delete;
  QuietAtEnd& operator=(const QuietAtEnd&) = delete;

 private:
  const at::Device device_;
};

}  // namespace lorad
