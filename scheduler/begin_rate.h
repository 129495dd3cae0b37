#pragma once

#include <cstdint>

namespace lorad {

// How often waiting sequences begin while some wait: recent turns weigh most. Pure; times are given.
class BeginRate final {
 public:
  void NoteBegin() { ++begun_now_; }
  // Once a turn. `some_wait`: since the turn before; other time says nothing of how fast a queue goes. `memory_us`:
  // what lies further back counts little.
  void NoteTurn(int64_t now_us, bool some_wait, int64_t memory_us);
  // Until the last of so many that wait has begun; 0 before anything was measured.
  int64_t PredictUs(int64_t waiting) const;

 private:
  int64_t last_us_ = -1;
  int64_t begun_now_ = 0;
  bool some_waited_ = false;
  double elapsed_us_ = 0.0;
  double begun_ = 0.0;
};

}  // namespace lorad
