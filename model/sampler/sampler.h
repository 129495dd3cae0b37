#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/sampler/sampling_options.h"

namespace lorad {

// What one row of logits is to be turned into. Order of effects (as vLLM's and HF's): logit_bias, min_tokens' ban of
// the stop tokens, repetition, presence and frequency penalties, temperature, top_k, top_p, min_p, draw.
struct SampleRow {
  int64_t logit_row;  // into logits [L, V]
  const SamplingOptions* options;
  absl::Span<const int32_t> prompt_ids;  // for penalties
  absl::Span<const int32_t> generated_ids;
  absl::Span<const int32_t> banned_ids;  // eos and stop tokens while below min_tokens
  int64_t vocab_size = 0;                // the first logits, to choose from; 0 = all
  int64_t unknown_tokens = 0;            // generated behind generated_ids: draws count them, penalties do not
};

// Draws one token per row. Depends on nothing but the row's logits, options and the count of generated tokens: the draw
// uses a counter-based generator (Philox) keyed by (seed, generated_ids.size() + unknown_tokens).
// logits [L, V] f32, device CPU here; not modified.
// logprobs are of the raw logits.
// Errors (`errors[i]`): Internal, naming the row, when a row has NaN, +infinity or no finite logit, before or after
// bias and penalties; other rows still get their token.
struct SampleResult {
  std::vector<TokenLogprob> tokens;  // one per row
  std::vector<absl::Status> errors;  // one per row
};
SampleResult Sample(const at::Tensor& logits, absl::Span<const SampleRow> rows);

// log softmax of one row's first `vocab_size` logits (0 = all) at `token_id`, with the `top` best alternatives.
TokenLogprob LogprobOf(const at::Tensor& logits, int64_t logit_row, int32_t token_id, int32_t top,
                       int64_t vocab_size = 0);

}  // namespace lorad
