#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/command.h"

namespace lorad {

// The engine's only door: many threads put commands in, the engine thread takes them out in order.
//
// Bounds   Sequences accepted and not yet running: queue_limit. Adapter commands accepted and not yet answered:
//          command_limit. Prompts of accepted requests, cancels, loader events (each answers a job that the engine
//          gave) and drains are never refused.
// Errors   ResourceExhausted: a bound is reached. Unavailable: draining, or the engine has ended.
class Inbox final {
 public:
  Inbox(int64_t queue_limit, int64_t command_limit);

  absl::Status PutSubmit(SubmitCommand command);
  absl::Status PutAdapter(Command command);
  void Put(Command command);  // dropped once closed

  // Engine thread. Moves all commands to the end of `commands`; if there are none, waits up to `wait_us` (-1: for
  // ever).
  void DrainInto(std::vector<Command>* commands, int64_t wait_us);
  // A sequence began to run, or ended without having begun; an adapter command was answered.
  void SequenceLeftQueue();
  void CommandAnswered();

  void RefuseSubmits();          // draining
  void Wake();                   // ends a wait
  std::vector<Command> Close();  // refuses everything from now on; returns what was never taken out

  bool empty() const;  // nothing waits to be taken out, and nobody woke the engine
  int64_t queued_sequences() const;

 private:
  const int64_t queue_limit_;
  const int64_t command_limit_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Command> commands_;
  int64_t queued_sequences_ = 0;
  int64_t open_commands_ = 0;
  bool woken_ = false;
  bool draining_ = false;
  bool closed_ = false;
};

}  // namespace lorad
