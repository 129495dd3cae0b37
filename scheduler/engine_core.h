#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "scheduler/command.h"
#include "scheduler/planner.h"
#include "scheduler/snapshot.h"
#include "scheduler/state.h"

namespace lorad {

// The engine without its thread: commands go in, turns are taken. Engine runs it; simulations drive it by hand.
class EngineCore final {
 public:
  EngineCore(const EngineConfig& config, SchedulerParts parts);
  ~EngineCore();  // ends what is left

  void Apply(Command command);
  // One turn: expire, load, plan, reserve, execute, commit, publish. True: something was done, so another turn may do
  // more.
  bool Turn();
  // How long nothing but a command can change anything: microseconds, -1 for ever.
  int64_t WaitBudgetUs() const;
  bool drained() const { return state_.draining && state_.sequences.empty(); }
  // Ends every sequence and answers every command with Unavailable.
  void End();

  std::shared_ptr<const EngineSnapshot> snapshot() const;
  const SchedulerState& state() const { return state_; }

 private:
  void Publish();
  void GiveEvents();

  SchedulerState state_;
  struct Published;
  std::unique_ptr<Published> published_;
};

}  // namespace lorad
