#pragma once

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace lorad {

// A stream of a device beside the current one, for what need not wait for what is queued there next. Torch-free.
//
// Threads  the one that made it. Errors  Internal, with the device's reason. Both may be captured (device_graph.h),
// together.
class SideStream {
 public:
  virtual ~SideStream() = default;
  // What `queue` queues on the current stream goes to this one: behind all that is on the current stream by now, beside
  // what comes there next. Until Join nothing else may write what it reads, nor touch what it writes.
  virtual absl::Status Queue(absl::FunctionRef<absl::Status()> queue) = 0;
  // What is queued on the current stream from here on comes behind it.
  virtual absl::Status Join() = 0;
};

}  // namespace lorad
