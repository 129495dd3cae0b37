#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <optional>

#include "adapters/slot_table.h"
#include "model/adapter_seam.h"
#include "model/causal_lm.h"
#include "model/kv/kv_layout.h"
#include "model/step_graphs.h"
#include "scheduler/compute_gate.h"
#include "scheduler/executor.h"

namespace lorad {

// Runs steps on the base model with the adapters of `slots`: forward, prompt log-probabilities, sampling, which on a
// device happens there. On the CPU the whole step happens in Launch. On a device Launch queues it and Wait waits for
// its tokens, unless something of it wants logits on the host, for which Launch waits: log-probabilities of prompts,
// classes, vocabularies that the device does not draw from.
//
// Threads  the engine's; waits_us: any.
// Errors   Wait: what Forward or the adapters' seam answered; then no row has a result. A lost device ends the process.
class ModelExecutor final : public StepExecutor {
 public:
  // All outlive it. `seam` applies the adapters; a step without any uses the base alone.
  // Steps that follow one another without a wait are one of `gate`'s serving turns; null: nobody else uses the model.
  // `graphs`: of the model on a device; null: every step is launched anew.
  ModelExecutor(CausalLm* model, KvView kv, AdapterSeam* seam, ComputeGate* gate = nullptr,
                StepGraphs* graphs = nullptr);

  ~ModelExecutor() override;

  Ticket Launch(absl::Span<const ExecRow> rows, int64_t expected_us) override;
  absl::StatusOr<StepResult> Wait(Ticket ticket) override;
  // Not while training waits for its turn.
  bool TakesStepBehind() const override;

  // For how long the device has been waited for without a break; 0: nobody waits.
  int64_t waits_us() const;

 private:
  static constexpr int64_t kNotWaiting = -1;
  struct Step;
  bool OneIsQueued() const;
  absl::Status Queue(absl::Span<const ExecRow> rows, Step* step);
  void End(Step* step);
  absl::StatusOr<at::Tensor> Forward(const ForwardBatch& batch);

  CausalLm* const model_;
  const KvView kv_;
  AdapterSeam* const seam_;
  ComputeGate* const gate_;
  StepGraphs* const graphs_;
  BaseOnlySeam base_only_;
  Ticket last_ticket_ = 0;
  std::deque<Step> in_flight_;  // the oldest first; two at most
  std::optional<ComputeGate::Turn> turn_;
  int64_t last_end_us_ = 0;  // of a step that was waited for
  std::atomic<int64_t> wait_began_us_ = kNotWaiting;
};

}  // namespace lorad
