#include "scheduler/prefix_reuse.h"

#include <algorithm>

#include "model/base/check.h"

namespace lorad {
namespace {

const PrefixTrees& TreesOf(const Sequence& sequence, const SchedulerState& state) {
  if (sequence.adapters.empty()) return state.base_prefixes;
  if (!sequence.request->composition.empty()) return sequence.composed_prefixes;
  return sequence.adapters.front().version->prefixes;
}

}  // namespace

const PrefixTreePtr& PrefixTreeOf(const Sequence& sequence, const SchedulerState& state) {
  static const PrefixTreePtr kNone;
  const PrefixTrees& trees = TreesOf(sequence, state);
  const auto variant = static_cast<size_t>(state.config.rope_switch.VariantOf(sequence.known_tokens()));
  return variant < trees.size() ? trees[variant] : kNone;
}

int64_t ReusableTokens(const Sequence& sequence) {
  const int64_t all_but_last = sequence.known_tokens() - 1;
  if (sequence.sampling.prompt_logprobs < 0 || sequence.answered) return all_but_last;
  // Entry i of the list comes from position i - 1; what was gathered before a preemption is not wanted again.
  const auto gathered = static_cast<int64_t>(sequence.prompt_logprobs.size());
  return std::clamp<int64_t>(gathered - 1, 0, all_but_last);
}

PrefixMatch MatchPrefix(const Sequence& sequence, const SchedulerState& state) {
  return state.prefix_cache->Match(PrefixTreeOf(sequence, state), sequence.tokens, ReusableTokens(sequence),
                                   sequence.active_from);
}

PrefixChain TakePrefix(const Sequence& sequence, int64_t first_position, SchedulerState* state) {
  LORAD_CHECK_EQ(first_position % kKvBlockTokens, 0);
  return state->prefix_cache->Acquire(PrefixTreeOf(sequence, *state), sequence.tokens, first_position / kKvBlockTokens,
                                      sequence.active_from);
}

void CountPrefix(int64_t cached_tokens, Sequence* sequence, SchedulerState* state) {
  sequence->cached_tokens = cached_tokens;
  // As vLLM counts: not those who want their whole prompt computed, and nobody twice.
  if (PrefixTreeOf(*sequence, *state) == nullptr || sequence->sampling.prompt_logprobs >= 0) return;
  state->prefix_counts.query_tokens += sequence->prompt_tokens;
  state->prefix_counts.hit_tokens += cached_tokens;
}

}  // namespace lorad
