#include "scheduler/composition.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "adapters/invocation.h"
#include "model/base/status_macros.h"

namespace lorad {

std::vector<RequestAdapter> AdaptersOf(const Request& request) {
  if (!request.composition.empty()) return request.composition;
  if (request.adapter.empty()) return {};
  return {{.name = request.adapter}};
}

std::string AnswersAs(const Request& request) {
  std::string name;
  for (const RequestAdapter& adapter : AdaptersOf(request)) {
    absl::StrAppend(&name, name.empty() ? "" : "+", adapter.name);
    if (adapter.scale != 1.0f) absl::StrAppend(&name, "*", adapter.scale);
  }
  return name;
}

int64_t ActiveFrom(const SequenceAdapters& adapters, absl::Span<const int32_t> prompt) {
  return adapters.empty() ? 0 : ActiveFrom(prompt, adapters.front().version->invocation_tokens);
}

int64_t PagesOf(const SequenceAdapters& adapters) {
  int64_t pages = 0;
  for (const SequenceAdapter& adapter : adapters) pages += adapter.version->pages;
  return pages;
}

absl::Status CheckComposable(const Request& request, const SequenceAdapters& adapters) {
  for (const SequenceAdapter& adapter : adapters) {
    const AdapterVersion& version = *adapter.version;
    if (!version.invocation_tokens.empty() && !request.composition.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("adapters: ", version.name,
                                                     " is an aLoRA, active from its invocation on; limit: alone, at "
                                                     "scale 1; name it as `adapter`"));
    }
    if (version.vocab_size > 0 && !request.composition.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("adapters: ", version.name,
                                                     " has a vocabulary of its own; limit: alone, at scale 1; name it "
                                                     "as `adapter`"));
    }
    if (!version.known || (version.num_labels > 0) == request.classify) continue;
    return absl::InvalidArgumentError(
        request.classify
            ? absl::StrCat("adapter: ", version.name, "; limit: one with a classifier head; use Generate for this one")
            : absl::StrCat("adapter: ", version.name, "; has a classifier head and writes no text; use Classify"));
  }
  for (auto b = adapters.begin(); b != adapters.end(); ++b) {
    for (auto a = adapters.begin(); a != b; ++a) {
      const std::vector<std::string>& of_a = a->version->replaced;
      const std::vector<std::string>& of_b = b->version->replaced;
      std::vector<std::string> both;
      std::set_intersection(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(), std::back_inserter(both));
      if (both.empty()) continue;
      return absl::InvalidArgumentError(absl::StrCat("adapters: ", a->version->name, " and ", b->version->name,
                                                     " both replace the base's ", both.front(),
                                                     "; limit: one adapter for each; name one of them"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTokenizer(const Request& request, const SequenceAdapters& adapters) {
  if (request.awaits_tokenizer || adapters.empty() || !adapters.front().version->known) return absl::OkStatus();
  const AdapterVersion& version = *adapters.front().version;
  if (version.tokenizer == request.tokenizer) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("adapter: ", version.name,
                                             "; replaced by one with another tokenizer as the request came; send it "
                                             "again"));
}

int64_t VocabularyOf(const SequenceAdapters& adapters) {
  return adapters.empty() ? 0 : adapters.front().version->vocab_size;
}

absl::Status CheckIds(const Request& request, const SequenceAdapters& adapters, int64_t vocab_size) {
  if (vocab_size == 0) return absl::OkStatus();
  for (const SequenceAdapter& adapter : adapters) {
    if (!adapter.version->known) return absl::OkStatus();
  }
  const int64_t own = VocabularyOf(adapters);
  const int64_t limit = own > 0 ? own : vocab_size;
  const auto check = [limit](const char* field, int32_t id) {
    if (id >= 0 && id < limit) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": ", id, "; limit: below ", limit, "; ids of the vocabulary of base and adapter"));
  };
  for (const int32_t id : request.prompt_ids) RETURN_IF_ERROR(check("token_ids", id));
  for (const int32_t id : request.sampling.stop_token_ids) RETURN_IF_ERROR(check("stop_token_ids", id));
  for (const auto& [id, bias] : request.sampling.logit_bias) RETURN_IF_ERROR(check("logit_bias token", id));
  return absl::OkStatus();
}

PrefixTrees ComposedPrefixes(const SequenceAdapters& adapters, SchedulerState* state) {
  if (!state->config.prefix_cache) return {};
  std::string content = "composition";
  for (const SequenceAdapter& adapter : adapters) {
    if (!adapter.version->known) return {};
    absl::StrAppendFormat(&content, " %a of %s", adapter.scale, adapter.version->digest);  // every bit of the scale
  }
  return state->composed_prefixes.For(content, state->config.rope_switch.last_variant, state->prefix_cache.get());
}

}  // namespace lorad
