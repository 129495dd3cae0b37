#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "adapters/lease.h"
#include "model/kv/block_table.h"
#include "model/kv/prefix_cache.h"
#include "scheduler/order/order.h"
#include "scheduler/plan.h"
#include "scheduler/request.h"

namespace lorad {

struct Account;
struct AdapterVersion;

// An adapter that a sequence runs on.
struct SequenceAdapter {
  AdapterVersion* version;
  float scale;
};
using SequenceAdapters = absl::InlinedVector<SequenceAdapter, 1>;

// One of a request's n generations, from acceptance to its Finish. Engine thread only.
struct Sequence {
  SequenceId id = 0;
  std::shared_ptr<const Request> request;
  int32_t index = 0;
  SamplingOptions sampling;       // the request's, with this sequence's seed
  SequenceAdapters adapters;      // in the request's order; empty = base
  PrefixTrees composed_prefixes;  // of a composition, once all of its adapters are known
  int64_t active_from = 0;        // first position that runs on `adapters`, once they are known; those before: the base
  Account* account = nullptr;     // of the request's (first) name, whatever version it runs on
  OrderKey order;

  std::vector<int32_t> tokens;  // prompt, then generated
  int64_t prompt_tokens = 0;
  int64_t computed_tokens = 0;                  // their k and v lie in `blocks`
  int64_t in_flight_tokens = 0;                 // being computed by launched steps
  BlockTable blocks;                            // kKvBlockTokens positions each
  absl::InlinedVector<AdapterLease, 1> leases;  // while it runs, of `adapters` in order

  bool running = false;
  bool begun = false;     // a step of it was committed, once
  bool answered = false;  // an event went out
  bool late = false;      // ended because its first token could not be in time
  bool ended = false;     // its Finish went out, but a launched step still has a row of it
  int64_t overtaken = 0;
  int64_t cached_tokens = 0;                  // of the prompt, found computed when it first began
  std::vector<TokenLogprob> prompt_logprobs;  // gathered until the first event

  int64_t first_scheduled_us = -1;
  int64_t first_token_us = -1;
  int64_t last_token_us = -1;

  int64_t generated_tokens() const { return static_cast<int64_t>(tokens.size()) - prompt_tokens; }
  bool RunsOn(const AdapterVersion* version) const {
    return std::any_of(adapters.begin(), adapters.end(), [&](const auto& a) { return a.version == version; });
  }
  int64_t known_tokens() const { return static_cast<int64_t>(tokens.size()); }
  // A step in flight computes its newest token, and draws the next one.
  bool draws_in_flight() const { return in_flight_tokens > 0 && computed_tokens + in_flight_tokens == known_tokens(); }
};

}  // namespace lorad
