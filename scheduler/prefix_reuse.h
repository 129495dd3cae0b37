#pragma once

#include <cstdint>

#include "model/kv/prefix_cache.h"
#include "scheduler/sequence.h"
#include "scheduler/state.h"

namespace lorad {

// Which cached KV blocks a sequence may begin with. Engine thread.

// The blocks of its content and length: the base's, those of its adapter's digest, or those of a composition's digests
// and scales in their order; of an aLoRA those of its digest as a branch of the base's. Null: nothing is cached.
const PrefixTreePtr& PrefixTreeOf(const Sequence& sequence, const SchedulerState& state);

// How many of its tokens may come from the cache. The last one is always computed, for its logits, and so is every
// position of the prompt whose log-probabilities are still to be told.
int64_t ReusableTokens(const Sequence& sequence);

// What a waiting sequence would begin with now.
PrefixMatch MatchPrefix(const Sequence& sequence, const SchedulerState& state);

// Takes what a row of a waiting sequence begins with: all blocks before its first position.
PrefixChain TakePrefix(const Sequence& sequence, int64_t first_position, SchedulerState* state);

// Counts a sequence that begins for the first time, with that many tokens from the cache.
void CountPrefix(int64_t cached_tokens, Sequence* sequence, SchedulerState* state);

}  // namespace lorad
