#pragma once

#include <c10/core/Device.h>

#include "absl/status/status.h"

namespace lorad {

// A CUDA device whose kernel left its memory, or that fell off the bus, answers every call with that error until the
// process ends, and LibTorch's tensors throw it in their destructors. Nothing can be served or trained then: the
// process ends, before anybody takes the error for a request's or a job's own, and what starts it again goes on.

inline constexpr int kLostDeviceExitCode = 70;

// Whether `device` is in that state; an error of one call is not. Waits for what is queued there. Never for the CPU.
bool DeviceIsLost(c10::Device device);

// To be called with the status of a step that failed, before anything that it used goes. If the device is lost, the
// process ends with kLostDeviceExitCode and a line on stderr, without running any destructor.
void EndIfLost(c10::Device device, const absl::Status& status);

// From now on the same where a destructor throws, which ends the process in any case.
void EndIfLostOnTerminate(c10::Device device);

}  // namespace lorad
