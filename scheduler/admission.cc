#include "scheduler/admission.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/kv/kv_layout.h"

namespace lorad {

int64_t TokensThatFit(int64_t adapter_pages, const AdmissionLimits& limits) {
  return std::max<int64_t>(0, limits.total_pages - adapter_pages) / limits.pages_per_block * kKvBlockTokens;
}

absl::Status CheckEverFits(const Request& request, int64_t adapter_pages, const AdmissionLimits& limits) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt_ids.size());
  if (prompt_tokens == 0 && !request.awaits_tokenizer)
    return absl::InvalidArgumentError("prompt tokens: 0; at least: 1");
  if (request.n < 1 || request.n > limits.queue_limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("n: ", request.n, "; limit: 1 to ", limits.queue_limit, " (--queue-limit)"));
  }
  if (request.sampling.max_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens: ", request.sampling.max_tokens,
                                                   "; at least: 1; prompt tokens: ", prompt_tokens,
                                                   "; context limit: ", limits.max_context_tokens));
  }
  // What nobody asked for shrinks; the prompt and one token have to fit. Classify makes none.
  const int64_t max_tokens = request.max_tokens_is_default ? 1 : request.sampling.max_tokens;
  const int64_t made_tokens = request.classify ? 0 : max_tokens;
  if (made_tokens > limits.max_context_tokens - prompt_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("prompt tokens and max_tokens: ", prompt_tokens, " + ", made_tokens,
                                                   "; context limit: ", limits.max_context_tokens,
                                                   "; shorten the prompt or lower max_tokens"));
  }
  // The last generated token is never computed, so it needs no place.
  const int64_t fit_tokens = TokensThatFit(adapter_pages, limits);
  if (prompt_tokens + max_tokens - 1 > fit_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("tokens to hold: ", prompt_tokens + max_tokens - 1,
                                                   "; limit: ", fit_tokens, ", of memory pages: ", limits.total_pages,
                                                   ", of them for the adapter: ", adapter_pages,
                                                   "; lower max_tokens or raise --memory-bytes"));
  }
  return absl::OkStatus();
}

}  // namespace lorad
