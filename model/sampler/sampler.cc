#include "model/sampler/sampler.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/base/status_macros.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"
#include "model/sampler/candidates.h"
#include "model/sampler/philox.h"

namespace lorad {
namespace {

const float* RowOf(const at::Tensor& logits, int64_t row) {
  LORAD_CHECK(logits.is_cpu() && logits.scalar_type() == at::kFloat && logits.dim() == 2);
  LORAD_CHECK(logits.size(1) > 0 && logits.stride(1) == 1);
  LORAD_CHECK(row >= 0 && row < logits.size(0));
  return logits.const_data_ptr<float>() + row * logits.stride(0);
}

int64_t VocabularyOf(const at::Tensor& logits, int64_t vocab_size) {
  LORAD_CHECK_LE(vocab_size, logits.size(1));
  return vocab_size > 0 ? vocab_size : logits.size(1);
}

absl::Status SampleOne(const at::Tensor& logits, const SampleRow& row, size_t index, TokenLogprob& out) {
  const SamplingOptions& options = *row.options;
  const int64_t vocab = VocabularyOf(logits, row.vocab_size);
  const float* raw = RowOf(logits, row.logit_row);
  const float* scores = raw;
  float max = cpu::MaxOf(raw, vocab);
  RETURN_IF_ERROR(CheckLargest(max, index, "of the model"));
  std::vector<float> edited;
  const std::vector<LogitEdit> edits = LogitEditsOf(options, row.prompt_ids, row.generated_ids, row.banned_ids, vocab);
  if (!edits.empty()) {
    edited.assign(raw, raw + vocab);
    for (const LogitEdit& edit : edits) edited[static_cast<size_t>(edit.id)] = Edited(edit, raw[edit.id]);
    scores = edited.data();
    max = cpu::MaxOf(scores, vocab);
    RETURN_IF_ERROR(CheckLargest(max, index, "after bias and penalties"));
  }
  int32_t token;
  if (IsGreedy(options)) {
    token = static_cast<int32_t>(std::find(scores, scores + vocab, max) - scores);  // of equal ones the lowest id
  } else {
    const std::vector<Candidate> candidates =
        CandidatesOf(options, absl::MakeConstSpan(scores, static_cast<size_t>(vocab)), max);
    if (candidates.empty()) {
      return absl::InternalError(
          absl::StrCat("sampler: row ", index, ": tokens left to draw from: 0; limit: 1 or more"));
    }
    token = Draw(candidates, UniformAt(options.seed, row.generated_ids.size() + row.unknown_tokens));
  }
  if (options.logprobs >= 0) {
    out = LogprobOf(logits, row.logit_row, token, options.logprobs, row.vocab_size);
  } else {
    out.token_id = token;
  }
  return absl::OkStatus();
}

// The `count` best, best first; of equal ones the lower id first.
std::vector<TopLogprob> Best(const float* scores, int64_t vocab, int64_t count) {
  const auto better = [](const TopLogprob& a, const TopLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.token_id < b.token_id;
  };
  std::vector<TopLogprob> heap;  // its front is the worst
  for (int64_t id = 0; id < vocab; ++id) {
    const TopLogprob entry = {static_cast<int32_t>(id), scores[id]};
    if (static_cast<int64_t>(heap.size()) < count) {
      heap.push_back(entry);
      std::push_heap(heap.begin(), heap.end(), better);
    } else if (entry.logprob > heap.front().logprob) {
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.back() = entry;
      std::push_heap(heap.begin(), heap.end(), better);
    }
  }
  std::sort_heap(heap.begin(), heap.end(), better);
  return heap;
}

}  // namespace

SampleResult Sample(const at::Tensor& logits, absl::Span<const SampleRow> rows) {
  SampleResult result;
  result.tokens.resize(rows.size());
  result.errors.resize(rows.size());
  const auto sample = [&](int64_t i) {
    result.errors[i] = SampleOne(logits, rows[i], static_cast<size_t>(i), result.tokens[i]);
  };
  constexpr int64_t kLogitsOfOneThread = 1 << 15;
  const int64_t count = static_cast<int64_t>(rows.size());
  if (count > 1 && count * logits.size(1) > kLogitsOfOneThread) {
    cpu::ParallelTasks(count, sample);
  } else {
    for (int64_t i = 0; i < count; ++i) sample(i);
  }
  return result;
}

TokenLogprob LogprobOf(const at::Tensor& logits, int64_t logit_row, int32_t token_id, int32_t top, int64_t vocab_size) {
  const float* scores = RowOf(logits, logit_row);
  const int64_t vocab = VocabularyOf(logits, vocab_size);
  LORAD_CHECK(token_id >= 0 && token_id < vocab);
  const float max = cpu::MaxOf(scores, vocab);
  const double log_sum = std::log(cpu::ExpRow(scores, vocab, max, 1.0f, nullptr)) + max;
  TokenLogprob out;
  out.token_id = token_id;
  out.logprob = static_cast<float>(scores[token_id] - log_sum);
  if (top > 0) {
    out.top = Best(scores, vocab, std::min<int64_t>(top, vocab));
    for (TopLogprob& t : out.top) t.logprob = static_cast<float>(t.logprob - log_sum);
  }
  return out;
}

}  // namespace lorad
