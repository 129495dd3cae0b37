#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "absl/strings/str_cat.h"
#include "model/base/guarded.h"
#include "model/forward_batch.h"

namespace lorad {

// What of a step goes to a device, in one copy, and comes back.

// The batch with its tensors on `device`. Nothing waits: the copy is queued on the current stream.
ForwardBatch BatchOn(at::Device device, const ForwardBatch& batch);

// The same numbers on the host; a host's own as they are. Waits for all that is queued on the current stream of the
// device, also where there are none.
at::Tensor ToHost(const at::Tensor& on_device);

// Calls fn. That the device's memory is full, which LibTorch tells by an exception of its own, becomes
// ResourceExhausted.
template <typename Fn>
auto WithDeviceMemory(const Fn& fn) {
  try {
    return fn();
  } catch (const c10::OutOfMemoryError& error) {
    throw StatusException(absl::ResourceExhaustedError(
        absl::StrCat("the device's memory: ", error.what_without_backtrace(), "; lower --memory-bytes")));
  }
}

// Waits for the current stream of `device`, if it is not the host, when it goes: a step that ends by an exception too
// leaves nothing running on pages that may be somebody else's next.
class QuietAtEnd final {
 public:
  explicit QuietAtEnd(at::Device device) : device_(device) {}
  ~QuietAtEnd();
  QuietAtEnd(const QuietAtEnd&) = delete;
  QuietAtEnd& operator=(const QuietAtEnd&) = delete;

 private:
  const at::Device device_;
};

}  // namespace lorad
