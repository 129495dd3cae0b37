#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "adapters/pool.h"
#include "model/adapter_seam.h"
#include "model/causal_lm.h"
#include "model/memory/page_pool.h"
#include "model/row_segments.h"
#include "model/sampler/sampling_options.h"
#include "tests/component/answer.h"
#include "tests/component/random_adapter.h"

namespace lorad {

struct Generation {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  std::vector<SlotTerm> terms;    // none = the base
  int64_t cancel_at_tokens = -1;  // goes away when it has as many
  bool poisoned = false;          // its logits are not numbers: it ends at its first draw
};

// Runs generations on CausalLm, a seam and a page pool alone, without a scheduler: the steps are what a test asks for.
class StepDriver final {
 public:
  // All outlive it. `adapters` may be null when nothing but the base runs.
  StepDriver(CausalLm* model, AdapterSeam* seam, PagePool* pages, AdapterPool* adapters)
      : model_(model), seam_(seam), pages_(pages), adapters_(adapters) {}

  // Nobody else in any step, the whole prompt in the first.
  Answer RunAlone(const Generation& generation);

  // Generations join at random steps; a step takes a random choice of them in random order, with prompts cut anywhere;
  // blocks move between steps. Blocks are filled with NaN when they are handed out.
  std::vector<Answer> RunInRandomSteps(const std::vector<Generation>& generations, Rng& rng);

  // One step with the whole prompt of each: its last row's logits [generations, V].
  at::Tensor OneStep(const std::vector<Generation>& generations);

 private:
  struct Running;
  struct Row;
  void GrowTo(Running* running, int64_t tokens);
  absl::StatusOr<at::Tensor> Forward(const std::vector<Row>& rows, bool merge_segments);
  void Step(const std::vector<Row>& rows, bool merge_segments);

  CausalLm* const model_;
  AdapterSeam* const seam_;
  PagePool* const pages_;
  AdapterPool* const adapters_;
};

}  // namespace lorad
