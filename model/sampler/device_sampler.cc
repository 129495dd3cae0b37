#include "model/sampler/device_sampler.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include <ATen/ops/empty.h>

#include "model/base/check.h"
#include "model/base/status_macros.h"
#include "model/device_step.h"
#include "model/ops/draw_rows.h"
#include "model/sampler/candidates.h"
#include "model/sampler/philox.h"

namespace lorad {
namespace {

// Every row with its numbers resolved, and the edits of all.
struct Draws {
  std::vector<DrawRow> rows;
  std::vector<LogitEdit> edits;
  int64_t most = 0;  // alternatives of a row

  void Add(const SampleRow& row, int64_t width) {
    const SamplingOptions& options = *row.options;
    LORAD_CHECK_LE(row.vocab_size, width);
    const int64_t vocab = row.vocab_size > 0 ? row.vocab_size : width;
    const std::vector<LogitEdit> own = LogitEditsOf(options, row.prompt_ids, row.generated_ids, row.banned_ids, vocab);
    DrawRow& draw = rows.emplace_back();
    draw.logit_row = row.logit_row;
    draw.vocab_size = static_cast<int32_t>(vocab);
    if (!IsGreedy(options)) {
      draw.uniform = UniformAt(options.seed, row.generated_ids.size() + row.unknown_tokens);
      draw.inverse_temperature = 1.0f / options.temperature;
      draw.top_k = static_cast<int32_t>(std::min(options.top_k, vocab));
      draw.top_p = options.top_p;
      draw.min_p = options.min_p;
    }
    draw.top = std::min(options.logprobs, draw.vocab_size);
    draw.first_edit = static_cast<int32_t>(edits.size());
    draw.edits = static_cast<int32_t>(own.size());
    edits.insert(edits.end(), own.begin(), own.end());
    most = std::max<int64_t>(most, draw.top);
  }
};

absl::Status Taken(const DrawRow& row, const DrawnRow& drawn, const DrawnLogprob* top, size_t index,
                   TokenLogprob* token) {
  RETURN_IF_ERROR(CheckLargest(drawn.model_max, index, "of the model"));
  RETURN_IF_ERROR(CheckLargest(drawn.edited_max, index, "after bias and penalties"));
  token->token_id = drawn.token;
  if (row.top >= 0) token->logprob = drawn.logprob;
  for (int32_t j = 0; j < row.top; ++j) token->top.push_back({top[j].token, top[j].logprob});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QueuedDraws> QueuedDraws::Queue(at::Tensor& logits, absl::Span<const SampleRow> rows) {
  Draws draws;
  for (const SampleRow& row : rows) draws.Add(row, logits.size(1));
  QueuedDraws queued;
  queued.drawn_ = at::empty({DrawnBytes(std::ssize(rows), draws.most)}, logits.options().dtype(at::kByte));
  RETURN_IF_ERROR(DrawRows({logits, draws.rows, draws.edits, draws.most, queued.drawn_}));
  queued.on_host_ = QueueToHost(queued.drawn_);
  queued.copied_ = StreamMark(logits.device());
  queued.rows_ = std::move(draws.rows);
  queued.most_ = draws.most;
  return queued;
}

at::Tensor QueuedDraws::tokens() const {
  static_assert(offsetof(DrawnRow, token) == 0 && sizeof(DrawnRow) % sizeof(int32_t) == 0);
  constexpr int64_t kWords = sizeof(DrawnRow) / sizeof(int32_t);
  const int64_t rows = std::ssize(rows_);
  return drawn_.narrow(0, 0, DrawnBytes(rows, 0)).view(at::kInt).view({rows, kWords}).select(1, 0);
}

SampleResult QueuedDraws::Fetch() const {
  copied_.Await();
  const auto* const bytes = static_cast<const std::byte*>(on_host_.const_data_ptr());
  const auto* const of_rows = reinterpret_cast<const DrawnRow*>(bytes);
  const auto* const tops = reinterpret_cast<const DrawnLogprob*>(bytes + DrawnBytes(std::ssize(rows_), 0));
  SampleResult result;
  result.tokens.resize(rows_.size());
  result.errors.resize(rows_.size());
  for (size_t i = 0; i < rows_.size(); ++i) {
    result.errors[i] = Taken(rows_[i], of_rows[i], tops + static_cast<int64_t>(i) * most_, i, &result.tokens[i]);
  }
  return result;
}

absl::StatusOr<SampleResult> SampleOnDevice(at::Tensor& logits, absl::Span<const SampleRow> rows) {
  ASSIGN_OR_RETURN(const QueuedDraws queued, QueuedDraws::Queue(logits, rows));
  return queued.Fetch();
}

}  // namespace lorad
