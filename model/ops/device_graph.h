#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace lorad {

// What was once queued on a device, to be queued again by one call: the same kernels on the same grids with the same
// arguments, which read what lies at their addresses by then. Torch-free.
//
// Threads  the one that captured it.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  // Queues it on the current stream. Errors: Internal, with the device's reason.
  virtual absl::Status Replay() = 0;
  // Of the device's memory that its capture took, beyond what its family had.
  virtual int64_t bytes() const = 0;
};

// A family of graphs whose intermediate results share one pool of memory: what a replay made is there until another one
// of the family is replayed.
class DeviceGraphs {
 public:
  virtual ~DeviceGraphs() = default;
  // Takes down what `queue` queues on the current stream, of which nothing runs; twice where the device was full before
  // what nobody uses went back to it. Within it the host must not wait for the device, nor copy from memory of its own,
  // which a replay would read again. Errors: those of `queue`; Internal for what a device cannot capture;
  // ResourceExhausted.
  virtual absl::StatusOr<std::unique_ptr<DeviceGraph>> Capture(const std::function<absl::Status()>& queue) = 0;
  // Those captured from here on share a new pool. What graphs had that are gone by now goes back to the device, unless
  // another one of their pool lives.
  virtual void Renew() = 0;
};

}  // namespace lorad
