#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "model/ops/draw_row.h"
#include "model/sampler/sampling_options.h"

namespace lorad {

// A token that may be drawn and its weight, relative to the most likely token's 1.
struct Candidate {
  int32_t id;
  float weight;
};

// What the processors that run before temperature do to a row of `vocab` logits: ids ascending, each once. Token ids
// outside [0, vocab) are ignored.
//   logit_bias:          l += bias
//   banned:              l = -infinity
//   repetition (HF):     for ids in prompt or generated: l > 0 ? l / penalty : l * penalty
//   frequency, presence: l -= frequency * count + presence, over generated only
std::vector<LogitEdit> LogitEditsOf(const SamplingOptions& options, absl::Span<const int32_t> prompt_ids,
                                    absl::Span<const int32_t> generated_ids, absl::Span<const int32_t> banned_ids,
                                    int64_t vocab);
float Edited(const LogitEdit& edit, float logit);

// Internal, naming the row, unless the largest logit `what` ("of the model") is finite.
absl::Status CheckLargest(float largest, size_t row, absl::string_view what);

inline bool IsGreedy(const SamplingOptions& options) {
  return options.temperature < kLeastTemperature || options.top_k == 1;
}

// What temperature, top_k, top_p and min_p leave of the row, in that order. The caller sees to
// temperature >= kLeastTemperature and to a finite largest logit; then at least one is left.
//   top_k: the k largest; equal to the k-th stay too.
//   top_p: most likely first (equal ones by id) until their share reaches top_p; at least one.
//   min_p: those whose weight is at least min_p of the largest.
std::vector<Candidate> CandidatesOf(const SamplingOptions& options, absl::Span<const float> logits, float max_logit);

// The candidate (one or more) at `uniform` in [0, 1) of the weights' running sum.
int32_t Draw(absl::Span<const Candidate> candidates, double uniform);

}  // namespace lorad
