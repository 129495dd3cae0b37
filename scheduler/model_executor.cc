#include "scheduler/model_executor.h"

#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "model/base/check.h"
#include "model/base/guarded.h"
#include "model/base/status_macros.h"
#include "model/device_step.h"
#include "model/lost_device.h"
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
// vocabularies larger than its kernels take. So many bytes of them at a time:
constexpr int64_t kMostBytesOfLogits = int64_t{32} << 20;

void TakePromptLogprobs(const at::Tensor& logits, int64_t vocab_size, absl::Span<const ExecRow> rows,
                        const BuiltBatch& built, StepResult* result) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const ExecRow& row = rows[i];
    if (!row.prompt_logprobs) continue;
    const int64_t known = static_cast<int64_t>(row.prompt_ids.size()) - row.first_position - 1;
    const int64_t count = std::clamp<int64_t>(known, 0, built.logits[i].rows);
    std::vector<TokenLogprob>& logprobs = result->rows[i].prompt_logprobs;
    logprobs.resize(static_cast<size_t>(count));
    const at::Tensor own = logits.narrow(0, built.logits[i].first_row, count);
    ToHostInPieces(own, kMostBytesOfLogits, [&](int64_t first, const at::Tensor& some) {
      cpu::ParallelTasks(some.size(0), [&](int64_t r) {
        logprobs[static_cast<size_t>(first + r)] =
            LogprobOf(some, r, row.prompt_ids[row.first_position + first + r + 1], row.sampling->prompt_logprobs,
                      VocabularyOf(row, vocab_size));
      });
    });
  }
}

struct RowsToSample {
  std::vector<SampleRow> rows;
  std::vector<size_t> of_row;  // which row of the step each of them is
};

RowsToSample ToSample(int64_t vocab_size, absl::Span<const ExecRow> rows, const BuiltBatch& built) {
  RowsToSample to_sample;
  for (size_t i = 0; i < rows.size(); ++i) {
    const ExecRow& row = rows[i];
    if (!row.sample || row.classes > 0) continue;
    to_sample.rows.push_back({.logit_row = built.logits[i].first_row + built.logits[i].rows - 1,
                              .options = row.sampling,
                              .prompt_ids = row.prompt_ids,
                              .generated_ids = row.generated_ids,
                              .banned_ids = row.banned_ids,
                              .vocab_size = VocabularyOf(row, vocab_size),
                              .unknown_tokens = row.from_draw >= 0 ? 1 : 0});
    to_sample.of_row.push_back(i);
  }
  return to_sample;
}

void TakeTokens(SampleResult sampled, absl::Span<const size_t> of_row, StepResult* result) {
  for (size_t s = 0; s < of_row.size(); ++s) {
    RowResult& row_result = result->rows[of_row[s]];
    row_result.status = std::move(sampled.errors[s]);
    row_result.sampled = row_result.status.ok();
    row_result.token = std::move(sampled.tokens[s]);
  }
}

// Of vocabularies that no kernel draws from. The rows to sample are in the order of their logits.
void SampleOnHost(const at::Tensor& logits, const RowsToSample& to_sample, StepResult* result) {
  size_t next = 0;
  ToHostInPieces(logits, kMostBytesOfLogits, [&](int64_t first, const at::Tensor& some) {
    const size_t begin = next;
    std::vector<SampleRow> rows;
    for (; next < to_sample.rows.size() && to_sample.rows[next].logit_row < first + some.size(0); ++next) {
      rows.push_back(to_sample.rows[next]);
      rows.back().logit_row -= first;
    }
    TakeTokens(Sample(some, rows), absl::MakeConstSpan(to_sample.of_row).subspan(begin, rows.size()), result);
  });
}

int64_t NowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void TakeClassLogits(const at::Tensor& logits, absl::Span<const ExecRow> rows, const BuiltBatch& built,
                     StepResult* result) {
  std::vector<int64_t> logit_rows;
  int64_t most_classes = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].sample || rows[i].classes == 0) continue;
    LORAD_CHECK_LE(rows[i].classes, logits.size(1));
    logit_rows.push_back(built.logits[i].first_row + built.logits[i].rows - 1);
    most_classes = std::max<int64_t>(most_classes, rows[i].classes);
  }
  if (logit_rows.empty()) return;
  const at::Tensor index = OnDevice(logits.device(), at::tensor(logit_rows));
  const at::Tensor all = ToHost(at::index_select(logits.narrow(1, 0, most_classes), 0, index));
  const float* own = all.const_data_ptr<float>();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].sample || rows[i].classes == 0) continue;
    RowResult& row_result = result->rows[i];
    row_result.class_logits.assign(own, own + rows[i].classes);
    own += most_classes;
    const bool finite = std::ranges::all_of(row_result.class_logits, [](float v) { return std::isfinite(v); });
    if (!finite) row_result.status = absl::InternalError("class logits are not finite");
    row_result.sampled = finite;
  }
}

}  // namespace

// A launched step, and what is left to do of it.
struct ModelExecutor::Step {
  Ticket ticket = 0;
  int64_t begin_us = 0;
  absl::StatusOr<StepResult> result = StepResult();  // but for what follows
  bool queued = false;                               // on the device: its end is to be awaited
  StreamMark end;                                    // of a step without draws
  std::optional<QueuedDraws> draws;                  // the last that is queued of one
  std::vector<size_t> of_row;                        // the row of each draw
};

ModelExecutor::ModelExecutor(CausalLm* model, KvView kv, AdapterSeam* seam, ComputeGate* gate, StepGraphs* graphs)
    : model_(model), kv_(kv), seam_(seam), gate_(gate), graphs_(graphs) {}

ModelExecutor::~ModelExecutor() = default;

bool ModelExecutor::OneIsQueued() const { return in_flight_.size() == 1 && in_flight_.front().queued; }

bool ModelExecutor::TakesStepBehind() const { return OneIsQueued() && (gate_ == nullptr || !gate_->TrainingWaits()); }

Ticket ModelExecutor::Launch(absl::Span<const ExecRow> rows, int64_t expected_us) {
  LORAD_CHECK(in_flight_.empty() || OneIsQueued());  // training may have come meanwhile
  if (gate_ != nullptr && !turn_.has_value()) turn_.emplace(gate_->EnterServing(expected_us));
  Step step;
  step.ticket = ++last_ticket_;
  step.begin_us = NowUs();
  if (absl::Status status = Guarded([&] { return Queue(rows, &step); }); !status.ok()) {
    EndIfLost(model_->device(), status);
    AwaitDevice(model_->device());  // nothing of it runs on pages that are somebody else's next
    step.result = std::move(status);
    step.queued = false;
    step.draws.reset();
  }
  if (!step.queued) End(&step);
  in_flight_.push_back(std::move(step));
  return last_ticket_;
}

absl::StatusOr<StepResult> ModelExecutor::Wait(Ticket ticket) {
  LORAD_CHECK(!in_flight_.empty() && ticket == in_flight_.front().ticket);
  Step step = std::move(in_flight_.front());
  in_flight_.pop_front();
  if (step.queued) {
    wait_began_us_ = NowUs();
    const absl::Status status = GuardedOnDevice([&] {
      step.end.Await();
      if (step.draws.has_value()) TakeTokens(step.draws->Fetch(), step.of_row, &*step.result);
      return absl::OkStatus();
    });
    wait_began_us_ = kNotWaiting;
    EndIfLost(model_->device(), status);  // while the step's tensors are there
    if (!status.ok()) step.result = status;
    End(&step);
  }
  if (in_flight_.empty()) turn_.reset();
  return std::move(step.result);
}

int64_t ModelExecutor::waits_us() const {
  const int64_t began_us = wait_began_us_;
  return began_us == kNotWaiting ? 0 : NowUs() - began_us;
}

void ModelExecutor::End(Step* step) {
  const int64_t now_us = NowUs();
  if (step->result.ok()) step->result->execute_us = now_us - std::max(step->begin_us, last_end_us_);
  last_end_us_ = now_us;
}

absl::StatusOr<at::Tensor> ModelExecutor::Forward(const ForwardBatch& batch) {
  AdapterSeam& seam = batch.rows.base_only() ? static_cast<AdapterSeam&>(base_only_) : *seam_;
  return graphs_ == nullptr ? model_->ForwardOnDevice(batch, kv_, seam) : graphs_->Forward(batch, kv_, seam);
}

absl::Status ModelExecutor::Queue(absl::Span<const ExecRow> rows, Step* step) {
  const c10::InferenceMode inference_mode;
  const cpu::ComputeTeam::KeepAwake awake = cpu::KeepTeamAwake();
  BuiltBatch built = BuildForward(rows);
  const bool draws_run = !in_flight_.empty() && in_flight_.front().draws.has_value();
  if (draws_run) built.batch.drawn = in_flight_.front().draws->tokens();
  ASSIGN_OR_RETURN(at::Tensor logits, Forward(built.batch));
  StepResult* const result = &*step->result;
  result->rows.resize(rows.size());
  if (graphs_ != nullptr) {
    const StepGraphs::Held held = graphs_->held();
    result->device = {.how = graphs_->how(), .graphs = held.graphs, .graph_bytes = held.bytes};
  }
  const int64_t vocab_size = model_->config().vocab_size;
  return WithDeviceMemory([&]() -> absl::Status {
    TakePromptLogprobs(logits, vocab_size, rows, built, result);
    TakeClassLogits(logits, rows, built, result);
    RowsToSample to_sample = ToSample(vocab_size, rows, built);
    if (logits.is_cpu() || logits.size(1) > kMostDrawnLogits) {
      if (!to_sample.rows.empty()) SampleOnHost(logits, to_sample, result);
      AwaitDevice(model_->device());
      return absl::OkStatus();
    }
    if (!to_sample.rows.empty()) {
      ASSIGN_OR_RETURN(step->draws, QueuedDraws::Queue(logits, to_sample.rows));
      step->of_row = std::move(to_sample.of_row);
    } else {
      step->end = StreamMark(model_->device());
    }
    step->queued = true;
    return absl::OkStatus();
  });
}

}  // namespace lorad
