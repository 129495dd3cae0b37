#include "model/sampler/candidates.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "model/base/check.h"
#include "model/ops/cpu/row_kernels.h"

namespace lorad {
namespace {

bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
}

// Ids of the row, each once, with how often it came.
struct Count {
  int32_t id;
  int32_t times;
};
std::vector<Count> CountIds(absl::Span<const int32_t> ids, int64_t vocab) {
  std::vector<int32_t> sorted(ids.begin(), ids.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<Count> counts;
  for (int32_t id : sorted) {
    if (id < 0 || id >= vocab) continue;
    if (counts.empty() || counts.back().id != id) counts.push_back({id, 0});
    ++counts.back().times;
  }
  return counts;
}

void KeepTopP(double top_p, std::vector<Candidate>& candidates) {
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  double kept = 0;
  size_t sorted = 0;
  // Sorted piece by piece: a few tokens hold most of the weight.
  for (size_t piece = 64; sorted < candidates.size(); piece *= 4) {
    const size_t end = std::min(candidates.size(), sorted + piece);
    if (end < candidates.size()) {
      std::nth_element(candidates.begin() + sorted, candidates.begin() + end, candidates.end(), MoreLikely);
    }
    std::sort(candidates.begin() + sorted, candidates.begin() + end, MoreLikely);
    for (; sorted < end; ++sorted) {
      if (sorted > 0 && kept >= top_p * total) {
        candidates.resize(sorted);
        return;
      }
      kept += candidates[sorted].weight;
    }
  }
}

}  // namespace

std::vector<LogitEdit> LogitEditsOf(const SamplingOptions& options, absl::Span<const int32_t> prompt_ids,
                                    absl::Span<const int32_t> generated_ids, absl::Span<const int32_t> banned_ids,
                                    int64_t vocab) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<LogitEdit> each;
  for (const auto& [id, bias] : options.logit_bias) {
    if (id >= 0 && id < vocab) each.push_back({.id = id, .bias = bias});
  }
  for (int32_t id : banned_ids) {
    if (id >= 0 && id < vocab) each.push_back({.id = id, .bias = -kInfinity});
  }
  if (options.repetition_penalty != 1.0f) {
    std::vector<int32_t> seen(prompt_ids.begin(), prompt_ids.end());
    seen.insert(seen.end(), generated_ids.begin(), generated_ids.end());
    for (const Count& c : CountIds(seen, vocab)) each.push_back({.id = c.id, .repetition = options.repetition_penalty});
  }
  if (options.frequency_penalty != 0.0f || options.presence_penalty != 0.0f) {
    for (const Count& c : CountIds(generated_ids, vocab)) {
      const float penalty = options.frequency_penalty * static_cast<float>(c.times) + options.presence_penalty;
      each.push_back({.id = c.id, .penalty = penalty});
    }
  }
  std::stable_sort(each.begin(), each.end(), [](const LogitEdit& a, const LogitEdit& b) { return a.id < b.id; });
  std::vector<LogitEdit> edits;
  for (const LogitEdit& edit : each) {
    if (edits.empty() || edits.back().id != edit.id) {
      edits.push_back(edit);
      continue;
    }
    LogitEdit& all = edits.back();
    all.bias = edit.bias == -kInfinity ? edit.bias : all.bias + edit.bias;  // a ban, whatever the bias
    all.repetition *= edit.repetition;
    all.penalty += edit.penalty;
  }
  return edits;
}

float Edited(const LogitEdit& edit, float logit) {
  logit += edit.bias;
  logit = logit > 0.0f ? logit / edit.repetition : logit * edit.repetition;
  return logit - edit.penalty;
}

absl::Status CheckLargest(float largest, size_t row, absl::string_view what) {
  if (std::isfinite(largest)) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("sampler: row ", row, ": the largest logit ", what, " is ", largest, "; limit: a finite number"));
}

std::vector<Candidate> CandidatesOf(const SamplingOptions& options, absl::Span<const float> logits, float max_logit) {
  const int64_t vocab = static_cast<int64_t>(logits.size());
  std::vector<float> weights(logits.size());
  cpu::ExpRow(logits.data(), vocab, max_logit, 1.0f / options.temperature, weights.data());
  float least = std::numeric_limits<float>::min();
  if (options.top_k > 0 && options.top_k < vocab) {
    std::vector<float> ordered = weights;
    std::nth_element(ordered.begin(), ordered.begin() + (options.top_k - 1), ordered.end(), std::greater<float>());
    least = std::max(least, ordered[options.top_k - 1]);
  }
  std::vector<Candidate> candidates;
  for (int64_t id = 0; id < vocab; ++id) {
    if (weights[id] >= least) candidates.push_back({static_cast<int32_t>(id), weights[id]});
  }
  if (options.top_p < 1.0f) KeepTopP(options.top_p, candidates);
  if (options.min_p > 0.0f) {
    // The largest weight is 1; it stays whatever min_p is.
    const float floor = std::min(options.min_p, 1.0f);
    std::erase_if(candidates, [&](const Candidate& c) { return c.weight < floor; });
  }
  return candidates;
}

int32_t Draw(absl::Span<const Candidate> candidates, double uniform) {
  LORAD_CHECK(!candidates.empty());
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  const double target = uniform * total;
  double sum = 0;
  for (const Candidate& c : candidates) {
    sum += c.weight;
    if (sum > target) return c.id;
  }
  return candidates.back().id;
}

}  // namespace lorad
