#include "tests/cuda_emulator/stream_order.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "tests/cuda_emulator/capture.h"
#include "tests/cuda_emulator/pinned_memory.h"

extern "C" __attribute__((weak)) void __sanitizer_symbolize_pc(void* pc, const char* format, char* out, size_t bytes);

namespace lorad::emulator {
namespace {

uint32_t& At(Clock& clock, uint32_t component) {
  if (clock.size() <= component) clock.resize(component + 1);
  return clock[component];
}

class Order final {
 public:
  static Order& Get() {
    static auto* const order = new Order;
    return *order;
  }

  std::shared_ptr<const Work> Queue(const Stream* stream, WorkName name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Clock& clock = ClockOf(stream);
    Join(host(), &clock);
    Clock before = clock;
    return QueueLocked(ComponentOf(stream), name, std::move(before), &clock);
  }
  // Of a stream that was forked from another in a graph, behind `clock` alone.
  std::shared_ptr<const Work> QueueForked(const Stream* stream, WorkName name, Clock* clock) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Clock before = *clock;
    return QueueLocked(ComponentOf(stream), name, std::move(before), clock);
  }

  Clock KnownTo(const Stream* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Clock known = ClockOf(stream);
    Join(host(), &known);
    return known;
  }
  Clock Of(const Stream* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return ClockOf(stream);
  }
  void StreamWaits(const Stream* stream, const Clock& clock) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Join(clock, &ClockOf(stream));
  }
  void HostWaits(const Clock& clock) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Join(clock, &host());
  }
  void HostWaitsForAll() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 1; i < components_.size(); ++i) Join(Clock(components_[i].clock), &host());
  }
  Work HostWork(WorkName name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Time time = Tick(kHost, name);
    return {name, time, host()};
  }
  bool HostKnows(Time time) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return Knows(host(), time);
  }
  // Its component may be another's once the host knows all of it.
  void Destroyed(const Stream* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = of_.find(stream);
    if (found == of_.end()) return;
    gone_.push_back(found->second);
    of_.erase(found);
  }
  WorkName NameAt(Time time) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::vector<WorkName>& names = components_[time.component].names;
    return time.count - 1 < names.size() ? names[time.count - 1] : WorkName{};
  }

 private:
  struct Component {
    Clock clock;
    std::vector<WorkName> names;  // of all its work
  };

  Order() : components_(2) { of_[nullptr] = 1; }

  Clock& host() { return components_[kHost].clock; }
  uint32_t ComponentOf(const Stream* stream) {
    if (const auto found = of_.find(stream); found != of_.end()) return found->second;
    const auto known = std::find_if(gone_.begin(), gone_.end(), [&](uint32_t component) {
      return Knows(host(), {component, static_cast<uint32_t>(components_[component].names.size())});
    });
    uint32_t component = static_cast<uint32_t>(components_.size());
    if (known != gone_.end()) {
      component = *known;
      gone_.erase(known);
    } else {
      components_.emplace_back();
    }
    return of_[stream] = component;
  }
  Clock& ClockOf(const Stream* stream) { return components_[ComponentOf(stream)].clock; }

  Time Tick(uint32_t component, WorkName name) {
    std::vector<WorkName>& names = components_[component].names;
    names.push_back(name);
    const Time time = {component, static_cast<uint32_t>(names.size())};
    At(components_[component].clock, component) = time.count;
    return time;
  }
  // What the host does from here on is not before it.
  std::shared_ptr<const Work> QueueLocked(uint32_t component, WorkName name, Clock before, Clock* clock) {
    const Time time = Tick(component, name);
    At(before, component) = time.count;
    At(*clock, component) = time.count;
    Tick(kHost, {});
    return std::make_shared<const Work>(Work{name, time, std::move(before)});
  }

  std::mutex mutex_;
  std::vector<Component> components_;
  std::unordered_map<const Stream*, uint32_t> of_;
  std::vector<uint32_t> gone_;
};

CapturedOrder* CapturingOrder() {
  CapturedLaunches* const captured = Capturing();
  return captured == nullptr ? nullptr : &captured->order();
}

}  // namespace

bool WatchesStreams() {
  static const bool watches = std::getenv("LORAD_EMULATOR_WATCHES_STREAMS") != nullptr;
  return watches;
}

bool Knows(const Clock& clock, Time time) {
  return time.count == 0 || (time.component < clock.size() && clock[time.component] >= time.count);
}
void Join(const Clock& other, Clock* clock) {
  if (clock->size() < other.size()) clock->resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) (*clock)[i] = std::max((*clock)[i], other[i]);
}

Ticket NoteQueued(const Stream* stream, WorkName name) {
  if (!WatchesStreams()) return {};
  if (CapturedOrder* const captured = CapturingOrder()) return captured->Queue(stream, name);
  return {Order::Get().Queue(stream, name)};
}
Moment NoteRecorded(const Stream* stream) {
  if (!WatchesStreams()) return {};
  if (CapturedOrder* const captured = CapturingOrder()) return captured->Record(stream);
  return {std::make_shared<const Clock>(Order::Get().Of(stream))};
}
void NoteStreamWaits(const Stream* stream, const Moment& moment) {
  if (!WatchesStreams()) return;
  if (CapturedOrder* const captured = CapturingOrder()) return captured->Wait(stream, moment);
  if (moment.before != nullptr) Order::Get().StreamWaits(stream, *moment.before);
}
void NoteHostWaits(const Stream* stream) {
  if (!WatchesStreams() || Capturing() != nullptr) return;
  Order::Get().HostWaits(Order::Get().Of(stream));
  OpenWhatIsDone();
}
void NoteHostWaits(const Moment& moment) {
  if (!WatchesStreams() || moment.before == nullptr) return;
  Order::Get().HostWaits(*moment.before);
  OpenWhatIsDone();
}
void NoteHostWaitsForAll() {
  if (!WatchesStreams()) return;
  Order::Get().HostWaitsForAll();
  OpenWhatIsDone();
}
void NoteDestroyed(const Stream* stream) {
  if (WatchesStreams()) Order::Get().Destroyed(stream);
}
Work NoteHostWork(WorkName name) { return Order::Get().HostWork(name); }
bool HostKnows(Time time) { return Order::Get().HostKnows(time); }
Clock KnownTo(const Stream* stream) { return Order::Get().KnownTo(stream); }

std::string NameOf(const WorkName& name) {
  if (name.text != nullptr) return name.text;
  std::array<char, 256> kernel{};
  if (name.kernel != nullptr && __sanitizer_symbolize_pc != nullptr) {
    __sanitizer_symbolize_pc(static_cast<char*>(const_cast<void*>(name.kernel)) + 1, "%f", kernel.data(),
                             kernel.size());
  } else {
    std::snprintf(kernel.data(), kernel.size(), "%p", name.kernel);
  }
  return std::string("the kernel ") + kernel.data();
}
std::string StreamName(uint32_t component) {
  if (component == kHost) return "the host";
  return component == 1 ? "the default stream" : "stream " + std::to_string(component);
}
std::string Describe(Time time) { return NameOf(Order::Get().NameAt(time)) + " on " + StreamName(time.component); }

Ticket CapturedOrder::Queue(const Stream* stream, WorkName name) {
  steps_.push_back({Kind::kWork, stream, name});
  return {nullptr, works_++};
}
Moment CapturedOrder::Record(const Stream* stream) {
  steps_.push_back({Kind::kRecord, stream, {}, moments_});
  return {nullptr, moments_++};
}
void CapturedOrder::Wait(const Stream* stream, const Moment& moment) {
  if (moment.captured >= 0) steps_.push_back({Kind::kWait, stream, {}, moment.captured});
}

std::vector<std::shared_ptr<const Work>> CapturedOrder::Replay() const {
  Order& order = Order::Get();
  std::vector<std::shared_ptr<const Work>> works;
  std::vector<Clock> moments(static_cast<size_t>(moments_));
  std::map<const Stream*, Clock> forked;
  for (const Step& step : steps_) {
    const bool is_first = step.stream == nullptr;
    switch (step.kind) {
      case Kind::kWork:
        works.push_back(is_first ? order.Queue(nullptr, step.name)
                                 : order.QueueForked(step.stream, step.name, &forked[step.stream]));
        break;
      case Kind::kRecord:
        moments[static_cast<size_t>(step.moment)] = is_first ? order.KnownTo(nullptr) : forked[step.stream];
        break;
      case Kind::kWait: {
        const Clock& moment = moments[static_cast<size_t>(step.moment)];
        is_first ? order.StreamWaits(nullptr, moment) : Join(moment, &forked[step.stream]);
      }
    }
  }
  // What comes behind a graph is behind all of it.
  for (const auto& [stream, clock] : forked) order.StreamWaits(nullptr, clock);
  return works;
}

}  // namespace lorad::emulator
