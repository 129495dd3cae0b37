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
// invocation would be the base's for one and not for the others.
absl::Status CheckComposable(const Request& request, const SequenceAdapters& adapters);

// The prefix trees of these contents and scales in this order; none while one is not known, or nothing is cached.
PrefixTrees ComposedPrefixes(const SequenceAdapters& adapters, SchedulerState* state);

}  // namespace lorad
