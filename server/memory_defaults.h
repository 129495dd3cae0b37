#pragma once

#include <cstdint>

namespace lorad {

// How much memory is taken where the flags leave it open; pure but for AvailableMemoryBytes.

// Half of what is available, at least 64 MiB and at most 16 GiB.
int64_t DefaultMemoryBytes(int64_t available_bytes);

// Four fifths of what a device has left behind the weights: the rest is for what a step computes. What trains is
// counted in the pool, which gives it back to the device.
int64_t DefaultDeviceMemoryBytes(int64_t available_bytes);

// Of the host's memory, for adapters kept packed beside a pool on a device: 4 GiB, or half of what is available if that
// is less. 0 where the pool is the host's memory itself.
int64_t DefaultHostAdapterBytes(bool pool_on_host, int64_t available_bytes);

// Of a device's --memory-bytes, for the graphs of captured steps: a sixteenth, and a GiB at most.
int64_t DeviceGraphBytes(int64_t memory_bytes);

// MemAvailable of /proc/meminfo, or what the control group leaves, where that is less; 1 where nothing is left, 0 where
// nobody tells.
int64_t AvailableMemoryBytes();

}  // namespace lorad
