#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// What is before what on the device, by vector clocks: each stream is a component, and all threads of the host are one.
// A piece of work (a kernel, a copy, an operator) comes behind what its stream was given before, what the stream was
// told to wait for and what the host knew to be done when it queued it. The host knows what it waited for. Who touches
// memory without such an order is stream_races.h's.
namespace lorad::emulator {

struct Stream;  // nullptr: the default one

// Whether LORAD_EMULATOR_WATCHES_STREAMS is set; if not, nothing of this is kept.
bool WatchesStreams();

// By component: so many pieces of its work are known to be done.
using Clock = std::vector<uint32_t>;
inline constexpr uint32_t kHost = 0;
struct Time {
  uint32_t component = 0;
  uint32_t count = 0;  // 0: before everything
};
bool Knows(const Clock& clock, Time time);
void Join(const Clock& other, Clock* clock);

// For who reads of a race: a name that stays, or a kernel.
struct WorkName {
  const char* text = nullptr;
  const void* kernel = nullptr;
};
struct Work {
  WorkName name;
  Time time;
  Clock before;  // and itself
};
// The same, for who queues it: in a capture it is another piece of work with each replay (CapturedOrder).
struct Ticket {
  std::shared_ptr<const Work> work;
  int captured = -1;
};
// A place in a stream, as an event has it.
struct Moment {
  std::shared_ptr<const Clock> before;
  int captured = -1;
};

Ticket NoteQueued(const Stream* stream, WorkName name);
Moment NoteRecorded(const Stream* stream);
void NoteStreamWaits(const Stream* stream, const Moment& moment);
void NoteHostWaits(const Stream* stream);
void NoteHostWaits(const Moment& moment);
void NoteHostWaitsForAll();
void NoteDestroyed(const Stream* stream);

// What the host does to memory itself.
Work NoteHostWork(WorkName name);
bool HostKnows(Time time);
// What the stream would know of its next work.
Clock KnownTo(const Stream* stream);

std::string NameOf(const WorkName& name);
std::string Describe(Time time);             // "kernel `Norm` on stream 2"
std::string StreamName(uint32_t component);  // "stream 2"

// What is queued while a thread captures: the order within a graph, which each replay puts behind what its stream had.
class CapturedOrder final {
 public:
  Ticket Queue(const Stream* stream, WorkName name);
  Moment Record(const Stream* stream);
  void Wait(const Stream* stream, const Moment& moment);
  // A replay's work by Ticket::captured, on the default stream and those that were forked from it.
  std::vector<std::shared_ptr<const Work>> Replay() const;

 private:
  enum class Kind { kWork, kRecord, kWait };
  struct Step {
    Kind kind;
    const Stream* stream;
    WorkName name;
    int moment = -1;
  };
  std::vector<Step> steps_;
  int works_ = 0, moments_ = 0;
};

}  // namespace lorad::emulator
