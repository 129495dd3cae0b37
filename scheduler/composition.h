#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "scheduler/request.h"
#include "scheduler/sequence.h"
#include "scheduler/state.h"

namespace lorad {

// Several adapters on one request: the terms of each are applied in the request's order, unmerged, each with a scale of
// the request's on top of its own. A request on one adapter is a composition of one, at scale 1.
//
// Its account, for fair shares, limits and metrics, is that of the first adapter named: one account a composition
// would hand out a share for every permutation.

// In order; none = the base.
std::vector<RequestAdapter> AdaptersOf(const Request& request);

// "name", or "first+second*0.5" where a scale is not 1; "" = the base.
std::string AnswersAs(const Request& request);

// The position from which they act on `prompt`: the first, but for an aLoRA (adapters/invocation.h).
int64_t ActiveFrom(const SequenceAdapters& adapters, absl::Span<const int32_t> prompt);

// Pages of all of them, as far as they are known.
int64_t PagesOf(const SequenceAdapters& adapters);

// Errors: InvalidArgument when two of those that are known replace the same tensor of the base, when one has a
// classifier and the request is for text, or the other way round, and for an aLoRA in a composition: KV before its
// invocation would be the base's for one and not for the others; also for one with a vocabulary of its own.
absl::Status CheckComposable(const Request& request, const SequenceAdapters& adapters);

// Errors: Unavailable when the first one, now known, has another tokenizer than the request was made with: one that was
// replaced while the request was tokenised. Sent again it is right.
absl::Status CheckTokenizer(const Request& request, const SequenceAdapters& adapters);

// Of an adapter with tokens of its own, the base's tokens and these; 0 = the base's.
int64_t VocabularyOf(const SequenceAdapters& adapters);

// Whether all ids of the request are in the vocabulary of its adapters, once these are known; `vocab_size` is the
// base's, 0 = nothing is checked. Errors: InvalidArgument names the field and the limit.
absl::Status CheckIds(const Request& request, const SequenceAdapters& adapters, int64_t vocab_size);

// The prefix trees of these contents and scales in this order; none while one is not known, or nothing is cached.
PrefixTrees ComposedPrefixes(const SequenceAdapters& adapters, SchedulerState* state);

}  // namespace lorad
