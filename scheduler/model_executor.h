#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "adapters/slot_table.h"
#include "model/adapter_seam.h"
#include "model/causal_lm.h"
#include "model/kv/kv_layout.h"
#include "model/step_graphs.h"
#include "scheduler/compute_gate.h"
#include "scheduler/executor.h"

namespace lorad {

// Runs steps on the base model with the adapters of `slots`: forward, prompt log-probabilities, sampling, which on a
// device happens there. The whole step happens in Launch.
//
// Threads  the engine's.
// Errors   Wait: what Forward or the adapters' seam answered; then no row has a result.
class ModelExecutor final : public StepExecutor {
 public:
  // All outlive it. `seam` applies the adapters; a step without any uses the base alone.
  // Each step is one of `gate`'s serving turns; null: nobody else uses the model. `graphs`: of the model on a device;
  // null: every step is launched anew.
  ModelExecutor(CausalLm* model, KvView kv, AdapterSeam* seam, ComputeGate* gate = nullptr,
                StepGraphs* graphs = nullptr);

  Ticket Launch(absl::Span<const ExecRow> rows, int64_t expected_us) override;
  absl::StatusOr<StepResult> Wait(Ticket ticket) override;

 private:
  absl::StatusOr<StepResult> Execute(absl::Span<const ExecRow> rows);
  absl::StatusOr<at::Tensor> Forward(const ForwardBatch& batch);

  CausalLm* const model_;
  const KvView kv_;
  AdapterSeam* const seam_;
  ComputeGate* const gate_;
  StepGraphs* const graphs_;
  BaseOnlySeam base_only_;
  Ticket last_ticket_ = 0;
  std::optional<absl::StatusOr<StepResult>> result_;
};

}  // namespace lorad
