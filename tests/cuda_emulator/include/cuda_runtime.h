#pragma once

// Stands in for CUDA's header: what our kernels and their launchers use of it, run by the block emulator.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/capture.h"
#include "tests/cuda_emulator/device_memory.h"
#include "tests/cuda_emulator/global_memory.h"
#include "tests/cuda_emulator/last_error.h"
#include "tests/cuda_emulator/pinned_memory.h"
#include "tests/cuda_emulator/runtime_calls.h"
#include "tests/cuda_emulator/stream_races.h"
#include "tests/cuda_emulator/streams.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time, all its threads on one thread of ours.
#define __shared__ static

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline const lorad::emulator::Position& threadIdx = lorad::emulator::thread_index;
inline const lorad::emulator::Position& blockIdx = lorad::emulator::block_index;
inline const lorad::emulator::Position& blockDim = lorad::emulator::block_dim;
inline const lorad::emulator::Position& gridDim = lorad::emulator::grid_dim;

using cudaError_t = int;
using cudaStream_t = lorad::emulator::Stream*;
using cudaEvent_t = lorad::emulator::Event*;
inline constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2,
                             cudaErrorInvalidConfiguration = 9, cudaErrorStreamCaptureUnsupported = 900;
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "an error of the emulator's";
}
inline cudaError_t cudaGetLastError() { return lorad::emulator::TakeLastError(); }

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->gridDim.x == 0 || config->gridDim.y == 0 || config->gridDim.z == 0 || config->blockDim.x == 0) {
    return lorad::emulator::Answer(cudaErrorInvalidConfiguration);
  }
  if (lorad::emulator::DeviceIsLost()) return lorad::emulator::Answer(lorad::emulator::kErrorIllegalAddress);
  if (lorad::emulator::failing_launches > 0) {
    --lorad::emulator::failing_launches;
    return lorad::emulator::Answer(lorad::emulator::failing_error);
  }
  // A captured launch keeps its arguments, as a device does.
  const lorad::emulator::Ticket ticket =
      lorad::emulator::NoteQueued(config->stream, {.kernel = reinterpret_cast<const void*>(kernel)});
  auto launch = [ticket, grid = config->gridDim, threads = config->blockDim.x, kernel,
                 kept = std::tuple<std::remove_cvref_t<Parameters>...>(arguments...)] {
    const lorad::emulator::DeviceAccess access;
    const lorad::emulator::RunningWork running(ticket);
    lorad::emulator::RunGrid({grid.x, grid.y, grid.z}, threads, [&] { std::apply(kernel, kept); });
  };
  const bool captures = lorad::emulator::Capturing() != nullptr;
  auto queued = [launch = std::move(launch)] {
    if (lorad::emulator::CapturedLaunches* const captured = lorad::emulator::Capturing()) {
      captured->Add(launch);
    } else {
      launch();
    }
  };
  lorad::emulator::Queue(config->stream, std::move(queued), captures);
  return cudaSuccess;
}

inline void __syncthreads() { lorad::emulator::SyncBlock(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { lorad::emulator::SyncWarp(mask); }

namespace lorad::emulator {
template <typename T>
T Shuffle(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Exchange(mask, bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace lorad::emulator

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return lorad::emulator::Shuffle(mask, value, lane % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return lorad::emulator::Shuffle(mask, value, lorad::emulator::LaneOfRunning() ^ distance);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int distance) {
  const int lane = lorad::emulator::LaneOfRunning();
  return lorad::emulator::Shuffle(mask, value, lane + distance < 32 ? lane + distance : lane);
}
inline unsigned __ballot_sync(unsigned mask, bool vote) { return lorad::emulator::Ballot(mask, vote); }

// The bytes of a and b, 0 to 7, that the four lowest digits of `which` name.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned which) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned chosen = 0;
  for (unsigned i = 0; i < 4; ++i) chosen |= static_cast<unsigned>(bytes >> (which >> 4 * i & 7u) * 8 & 0xFFu) << 8 * i;
  return chosen;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }

// Threads change only at barriers: what is between them is atomic.
namespace lorad::emulator {
template <typename T, typename Change>
__attribute__((noinline, no_sanitize("address"))) T Atomically(T* to, const Change& change) {
  AtomicAccess(to, sizeof(T));
  const T before = *to;
  *to = change(before);
  return before;
}
}  // namespace lorad::emulator
template <typename T>
T atomicAdd(T* to, T value) {
  return lorad::emulator::Atomically(to, [&](T before) { return before + value; });
}
template <typename T>
T atomicAdd_system(T* to, T value) {
  return atomicAdd(to, value);
}
template <typename T>
T atomicMax(T* to, T value) {
  return lorad::emulator::Atomically(to, [&](T before) { return before < value ? value : before; });
}

inline float __uint_as_float(unsigned bits) {
  float v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}
inline unsigned __float_as_uint(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, sizeof(v));
  return bits;
}

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2;
inline constexpr unsigned cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2;

inline cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (lorad::emulator::DeviceIsLost()) return lorad::emulator::Answer(lorad::emulator::kErrorIllegalAddress);
  if (lorad::emulator::Capturing() != nullptr) return lorad::emulator::Answer(cudaErrorStreamCaptureUnsupported);
  *data = lorad::emulator::AllocateOnDevice(bytes);
  return lorad::emulator::Answer(*data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
inline cudaError_t cudaFree(void* data) {
  lorad::emulator::TouchByHost("cudaFree", data, lorad::emulator::BytesOnDevice(data));
  lorad::emulator::FreeOnDevice(data);
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = *total_bytes = lorad::emulator::FreeDeviceBytes();
  return cudaSuccess;
}
// What is mapped is shared: the host may touch it at any time.
inline cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned flags) {
  if (lorad::emulator::DeviceIsLost()) return lorad::emulator::Answer(lorad::emulator::kErrorIllegalAddress);
  ++lorad::emulator::runtime_calls.host_locks;
  *data = (flags & cudaHostAllocMapped) != 0 ? std::malloc(bytes) : lorad::emulator::AllocatePinned(bytes);
  return lorad::emulator::Answer(*data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
inline cudaError_t cudaFreeHost(void* data) {
  ++lorad::emulator::runtime_calls.host_locks;
  lorad::emulator::FreePinned(data);
  return cudaSuccess;
}

// The default stream's work is done at once, that of others when somebody waits for it.
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (lorad::emulator::DeviceIsLost()) return lorad::emulator::Answer(lorad::emulator::kErrorIllegalAddress);
  if (lorad::emulator::Capturing() != nullptr) return lorad::emulator::Answer(cudaErrorStreamCaptureUnsupported);
  lorad::emulator::runtime_calls.Copy(static_cast<int64_t>(bytes));
  const lorad::emulator::Ticket ticket = lorad::emulator::NoteQueued(stream, {"cudaMemcpyAsync"});
  lorad::emulator::UsePinned(ticket, from, bytes, /*writes=*/false);
  lorad::emulator::UsePinned(ticket, to, bytes, /*writes=*/true);
  lorad::emulator::Queue(stream, [=] {
    const lorad::emulator::DeviceAccess access;
    const lorad::emulator::PinnedAccess access_from(from), access_to(to);
    const lorad::emulator::RunningWork running(ticket);
    running.Reads(from, bytes);
    running.Writes(to, bytes);
    std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new lorad::emulator::Stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (lorad::emulator::Capturing() != nullptr) return lorad::emulator::Answer(cudaErrorStreamCaptureUnsupported);
  ++lorad::emulator::runtime_calls.waits;
  lorad::emulator::RunUntil(stream, lorad::emulator::QueuedOn(stream));
  lorad::emulator::NoteHostWaits(stream);
  return lorad::emulator::AnswerOfWait();
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new lorad::emulator::Event;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (lorad::emulator::DeviceIsLost()) return lorad::emulator::Answer(lorad::emulator::kErrorIllegalAddress);
  *event = {stream, lorad::emulator::QueuedOn(stream), lorad::emulator::NoteRecorded(stream)};
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  lorad::emulator::NoteStreamWaits(stream, event->moment);
  const bool captures = lorad::emulator::Capturing() != nullptr;
  auto wait = [of = event->stream, after = event->after] { lorad::emulator::RunUntil(of, after); };
  lorad::emulator::Queue(stream, std::move(wait), captures);
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ++lorad::emulator::runtime_calls.waits;
  lorad::emulator::RunUntil(event->stream, event->after);
  lorad::emulator::NoteHostWaits(event->moment);
  return lorad::emulator::AnswerOfWait();
}
