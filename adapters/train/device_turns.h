#pragma once

#include <functional>

namespace lorad {

// What making and loading a job asks of a device goes behind others' steps: a turn at a time, between whatever needs
// none, as reading files, and in pieces (model/ops/pieces.h). While one of these lives, what its thread does by
// InDeviceTurn (in_device_turn.h) is done by `turn`, which calls what it is given; where there is none, at once.
//
// Threads  one of these a thread; no turn within another.
class DeviceTurns final {
 public:
  using Turn = std::function<void(const std::function<void()>& slice)>;
  explicit DeviceTurns(Turn turn);  // empty: at once
  ~DeviceTurns();
  DeviceTurns(const DeviceTurns&) = delete;
  DeviceTurns& operator=(const DeviceTurns&) = delete;

 private:
  const Turn turn_;
};

}  // namespace lorad
