#include "scheduler/model_executor.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "model/base/check.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"
#include "model/device_step.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/draw_row.h"
#include "model/sampler/device_sampler.h"
#include "model/sampler/sampler.h"
#include "scheduler/forward_builder.h"

namespace lorad {
namespace {

// The logits of a step may be wider than a row's vocabulary: others' own tokens come behind the base's.
int64_t VocabularyOf(const ExecRow& row, int64_t of_base) { return row.vocab_size > 0 ? row.vocab_size : of_base; }

// Logits come from a device whole only where there is no other way: for log-probabilities of a prompt's tokens, and of
// vocabularies larger than its kernels take.
void TakePromptLogprobs(const at::Tensor& logits, int64_t vocab_size, absl::Span<const ExecRow> rows,
                        const BuiltBatch& built, StepResult* result) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const ExecRow& row = rows[i];
    if (!row.prompt_logprobs) continue;
    const int64_t known = static_cast<int64_t>(row.prompt_ids.size()) - row.first_position - 1;
    const int64_t count = std::clamp<int64_t>(known, 0, built.logits[i].rows);
    std::vector<TokenLogprob>& logprobs = result->rows[i].prompt_logprobs;
    logprobs.resize(static_cast<size_t>(count));
    const at::Tensor own = ToHost(logits.narrow(0, built.logits[i].first_row, count));
    cpu::ParallelTasks(count, [&](int64_t r) {
      logprobs[static_cast<size_t>(r)] = LogprobOf(own, r, row.prompt_ids[row.first_position + r + 1],
                                                   row.sampling->prompt_logprobs, VocabularyOf(row, vocab_size));
    });
  }
}

// Where the logits are, if the device can.
absl::StatusOr<SampleResult> SampleAnywhere(at::Tensor& logits, absl::Span<const SampleRow> rows) {
  if (logits.is_cpu() || logits.size(1) > kMostDrawnLogits) return Sample(ToHost(logits), rows);
  return SampleOnDevice(logits, rows);
}

// Overwrites logits on a device.
absl::Status DrawTokens(at::Tensor& logits, int64_t vocab_size, absl::Span<const ExecRow> rows, const BuiltBatch& built,
                        StepResult* result) {
  std::vector<SampleRow> sample_rows;
  std::vector<size_t> of_row;
  for (size_t i = 0; i < rows.size(); ++i) {
    const ExecRow& row = rows[i];
    if (!row.sample || row.classes > 0) continue;
    sample_rows.push_back({.logit_row = built.logits[i].first_row + built.logits[i].rows - 1,
                           .options = row.sampling,
                           .prompt_ids = row.prompt_ids,
                           .generated_ids = row.generated_ids,
                           .banned_ids = row.banned_ids,
                           .vocab_size = VocabularyOf(row, vocab_size)});
    of_row.push_back(i);
  }
  if (sample_rows.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(SampleResult drawn, SampleAnywhere(logits, sample_rows));
  for (size_t s = 0; s < of_row.size(); ++s) {
    RowResult& row_result = result->rows[of_row[s]];
    row_result.status = std::move(drawn.errors[s]);
    row_result.sampled = row_result.status.ok();
    row_result.token = std::move(drawn.tokens[s]);
  }
  return absl::OkStatus();
}

void TakeClassLogits(const at::Tensor& logits, absl::Span<const ExecRow> rows, const BuiltBatch& built,
                     StepResult* result) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].sample || rows[i].classes == 0) continue;
    LORAD_CHECK_LE(rows[i].classes, logits.size(1));
    const int64_t row = built.logits[i].first_row + built.logits[i].rows - 1;
    const at::Tensor own = ToHost(logits.narrow(0, row, 1).narrow(1, 0, rows[i].classes));
    const float* const first = own.const_data_ptr<float>();
    RowResult& row_result = result->rows[i];
    row_result.class_logits.assign(first, first + rows[i].classes);
    const bool finite = std::all_of(first, first + rows[i].classes, [](float v) { return std::isfinite(v); });
    if (!finite) row_result.status = absl::InternalError("class logits are not finite");
    row_result.sampled = finite;
  }
}

}  // namespace

ModelExecutor::ModelExecutor(CausalLm* model, KvView kv, AdapterSeam* seam, ComputeGate* gate, StepGraphs* graphs)
    : model_(model), kv_(kv), seam_(seam), gate_(gate), graphs_(graphs) {}

Ticket ModelExecutor::Launch(absl::Span<const ExecRow> rows, int64_t expected_us) {
  LORAD_CHECK(!result_.has_value());
  std::optional<ComputeGate::Turn> turn;
  if (gate_ != nullptr) turn.emplace(gate_->EnterServing(expected_us));
  result_ = Guarded([&] { return Execute(rows); });
  return ++last_ticket_;
}

absl::StatusOr<StepResult> ModelExecutor::Wait(Ticket ticket) {
  LORAD_CHECK(ticket == last_ticket_ && result_.has_value());
  absl::StatusOr<StepResult> result = *std::exchange(result_, std::nullopt);
  return result;
}

absl::StatusOr<at::Tensor> ModelExecutor::Forward(const ForwardBatch& batch) {
  AdapterSeam& seam = batch.rows.base_only() ? static_cast<AdapterSeam&>(base_only_) : *seam_;
  return graphs_ == nullptr ? model_->ForwardOnDevice(batch, kv_, seam) : graphs_->Forward(batch, kv_, seam);
}

absl::StatusOr<StepResult> ModelExecutor::Execute(absl::Span<const ExecRow> rows) {
  const auto begin = std::chrono::steady_clock::now();
  const c10::InferenceMode inference_mode;
  const cpu::ComputeTeam::KeepAwake awake = cpu::KeepTeamAwake();
  const BuiltBatch built = BuildForward(rows);
  const QuietAtEnd quiet(model_->device());
  ASSIGN_OR_RETURN(at::Tensor logits, Forward(built.batch));
  StepResult result;
  result.rows.resize(rows.size());
  const int64_t vocab_size = model_->config().vocab_size;
  RETURN_IF_ERROR(WithDeviceMemory([&] {
    TakePromptLogprobs(logits, vocab_size, rows, built, &result);
    TakeClassLogits(logits, rows, built, &result);
    return DrawTokens(logits, vocab_size, rows, built, &result);
  }));
  if (graphs_ != nullptr) {
    const StepGraphs::Held held = graphs_->held();
    result.device = {.how = graphs_->how(), .graphs = held.graphs, .graph_bytes = held.bytes};
  }
  result.execute_us =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace lorad
