#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <utility>

#include "tests/cuda_emulator/stream_order.h"

// Streams whose work is put off until somebody waits for it, the latest that a device may take: what is read before,
// or written over, shows as wrong numbers. Each belongs to one thread, but for who waits for the whole device.
namespace lorad::emulator {

inline std::recursive_mutex streams_mutex;
inline std::set<Stream*> all_streams;

struct Stream {
  Stream() {
    const std::lock_guard<std::recursive_mutex> lock(streams_mutex);
    all_streams.insert(this);
  }
  ~Stream() {
    const std::lock_guard<std::recursive_mutex> lock(streams_mutex);
    all_streams.erase(this);
    NoteDestroyed(this);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  std::deque<std::function<void()>> waiting;
  int64_t done = 0;
  bool captured = false;  // what waits is a capture's
};
struct Event {
  Stream* stream = nullptr;
  int64_t after = 0;  // so many works of the stream
  Moment moment = {};
};

inline void Queue(Stream* stream, std::function<void()> work, bool captured = false) {
  if (stream == nullptr) return work();
  const std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  stream->waiting.push_back(std::move(work));
  stream->captured = captured;
}
inline int64_t QueuedOn(const Stream* stream) {
  const std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  return stream == nullptr ? 0 : stream->done + static_cast<int64_t>(stream->waiting.size());
}
inline void RunUntil(Stream* stream, int64_t count) {
  const std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  while (stream != nullptr && stream->done < count) {
    const std::function<void()> work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    ++stream->done;
    work();
  }
}
inline void RunAllStreams() {
  const std::lock_guard<std::recursive_mutex> lock(streams_mutex);
  for (Stream* const stream : all_streams) {
    if (!stream->captured) RunUntil(stream, QueuedOn(stream));
  }
}

}  // namespace lorad::emulator
