#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <cstddef>

#include "tests/cuda_emulator/stream_races.h"
#include "tests/cuda_emulator/streams.h"

// What LibTorch's operators touch, and the order in which its memory goes from one tensor to the next.
namespace lorad::emulator {

// There is one stream, and a second one by name, so that a test sees what is queued there.
inline constexpr c10::StreamId kAside = 1;
inline thread_local c10::StreamId current_stream = 0;
Stream* StreamOf(const c10::Stream& stream);
// What is queued now is queued there.
Stream* CurrentStream();

void Reads(const RunningWork& work, const at::Tensor& tensor);
void Writes(const RunningWork& work, const at::Tensor& tensor);

// Memory of LibTorch's belongs to the stream on which it was taken: freed by the host, it is there for whatever that
// stream does next. What another stream did to it must be behind something that this one waited for by then.
void NoteTorchAllocated(const Stream* stream, void* data, size_t bytes);
void NoteTorchFreed(void* data);

}  // namespace lorad::emulator
