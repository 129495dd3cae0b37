#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <utility>

// Streams whose work is put off until somebody waits for it, the latest that a device may take: what is read before,
// or written over, shows as wrong numbers. Each belongs to one thread.
namespace lorad::emulator {

struct Stream {
  std::deque<std::function<void()>> waiting;
  int64_t done = 0;
};
struct Event {
  Stream* stream = nullptr;
  int64_t after = 0;  // so many works of the stream
};

inline void Queue(Stream* stream, std::function<void()> work) {
  if (stream == nullptr) return work();
  stream->waiting.push_back(std::move(work));
}
inline int64_t QueuedOn(const Stream* stream) {
  return stream == nullptr ? 0 : stream->done + static_cast<int64_t>(stream->waiting.size());
}
inline void RunUntil(Stream* stream, int64_t count) {
  while (stream != nullptr && stream->done < count) {
    stream->waiting.front()();
    stream->waiting.pop_front();
    ++stream->done;
  }
}

}  // namespace lorad::emulator
