#include "server/translate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "adapters/names.h"
#include "model/base/status_macros.h"
#include "model/safetensors.h"

namespace lorad {
namespace {

constexpr int64_t kMaxN = 64;
constexpr int64_t kMaxStops = 64;
constexpr int64_t kMaxStopBytes = 1024;
constexpr int64_t kMaxStopTokens = 256;
constexpr int64_t kMaxLogitBias = 1024;
constexpr int64_t kMaxLogprobs = 20;
constexpr int64_t kMaxAdapters = 8;       // in one composition
constexpr float kMaxAdapterScale = 1000;  // either sign
constexpr int64_t kMaxRequestIdBytes = 128;
constexpr int64_t kMaxTextBytesPerToken = 16;  // Text has 3 to 6. Tokenising takes up to 250 bytes a byte of it.

absl::Status Wrong(absl::string_view field, const absl::AlphaNum& value, absl::string_view limit,
                   absl::string_view hint) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, "; limit: ", limit, "; ", hint));
}

absl::Status CheckCount(absl::string_view field, int64_t value, int64_t low, int64_t high, absl::string_view hint) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Wrong(field, value, absl::StrCat(low, " to ", high), hint);
}

// NaN is in no range.
absl::Status CheckFloat(absl::string_view field, float value, float low, float high, absl::string_view hint) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Wrong(field, value, absl::StrCat(low, " to ", high), hint);
}

absl::Status CheckPositive(absl::string_view field, float value, float high, absl::string_view hint) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return Wrong(field, value, absl::StrCat("above 0, at most ", high), hint);
}

absl::Status CheckRequestId(const std::string& id) {
  RETURN_IF_ERROR(
      CheckCount("request_id bytes", static_cast<int64_t>(id.size()), 0, kMaxRequestIdBytes, "use a shorter one"));
  for (const char c : id) {
    if (c <= ' ' || c >= 0x7f) {
      return Wrong("request_id character", static_cast<int>(static_cast<unsigned char>(c)), "visible ASCII, 33 to 126",
                   "use letters and digits");
    }
  }
  return absl::OkStatus();
}

void ApplyDefaults(const v1::SamplingParams& params, const ModelConfig::GenerationDefaults& model,
                   SamplingOptions* out) {
  out->temperature = params.has_temperature() ? params.temperature() : model.temperature;
  out->top_p = params.has_top_p() ? params.top_p() : model.top_p;
  out->top_k = params.has_top_k() ? params.top_k() : model.top_k;
  out->min_p = params.has_min_p() ? params.min_p() : model.min_p;
  out->repetition_penalty = params.has_repetition_penalty() ? params.repetition_penalty() : model.repetition_penalty;
  out->presence_penalty = params.presence_penalty();
  out->frequency_penalty = params.frequency_penalty();
}

absl::Status CheckNumbers(const SamplingOptions& options) {
  RETURN_IF_ERROR(CheckFloat("temperature", options.temperature, 0, 100, "0 is greedy"));
  RETURN_IF_ERROR(CheckPositive("top_p", options.top_p, 1, "1 turns it off"));
  RETURN_IF_ERROR(CheckFloat("min_p", options.min_p, 0, 1, "0 turns it off"));
  RETURN_IF_ERROR(CheckFloat("repetition_penalty", options.repetition_penalty, 0.01f, 100, "1 turns it off"));
  RETURN_IF_ERROR(CheckFloat("presence_penalty", options.presence_penalty, -2, 2, "0 turns it off"));
  return CheckFloat("frequency_penalty", options.frequency_penalty, -2, 2, "0 turns it off");
}

absl::Status TranslateStops(const v1::SamplingParams& params, int64_t id_limit, const ModelFacts& model,
                            SamplingOptions* out) {
  RETURN_IF_ERROR(CheckCount("stop strings", params.stop_size(), 0, kMaxStops, "give fewer"));
  for (const std::string& stop : params.stop()) {
    RETURN_IF_ERROR(
        CheckCount("stop bytes", static_cast<int64_t>(stop.size()), 1, kMaxStopBytes, "an empty one stops nothing"));
    out->stop.push_back(stop);
  }
  RETURN_IF_ERROR(CheckCount("stop_token_ids", params.stop_token_ids_size(), 0, kMaxStopTokens, "give fewer"));
  ASSIGN_OR_RETURN(out->stop_token_ids, TranslateIds(params.stop_token_ids(), id_limit, "stop_token_ids"));
  out->ignore_eos = params.ignore_eos();
  if (!out->ignore_eos) {
    out->stop_token_ids.insert(out->stop_token_ids.end(), model.eos_token_ids.begin(), model.eos_token_ids.end());
  }
  std::sort(out->stop_token_ids.begin(), out->stop_token_ids.end());
  out->stop_token_ids.erase(std::unique(out->stop_token_ids.begin(), out->stop_token_ids.end()),
                            out->stop_token_ids.end());
  return absl::OkStatus();
}

absl::Status TranslateBias(const v1::SamplingParams& params, int64_t id_limit, SamplingOptions* out) {
  RETURN_IF_ERROR(CheckCount("logit_bias entries", params.logit_bias_size(), 0, kMaxLogitBias, "give fewer"));
  for (const auto& [id, value] : params.logit_bias()) {
    RETURN_IF_ERROR(CheckCount("logit_bias token", id, 0, id_limit - 1, "ids of the model's vocabulary"));
    RETURN_IF_ERROR(CheckFloat("logit_bias value", value, -100, 100, "-100 all but forbids a token"));
    out->logit_bias.emplace_back(static_cast<int32_t>(id), value);
  }
  std::sort(out->logit_bias.begin(), out->logit_bias.end());  // A map has no order; ours is the same each time.
  return absl::OkStatus();
}

absl::Status TranslateLengths(const v1::SamplingParams& params, const ModelFacts& model, int64_t prompt_tokens,
                              SamplingOptions* out) {
  if (params.has_max_tokens()) {
    RETURN_IF_ERROR(
        CheckCount("max_tokens", params.max_tokens(), 1, int64_t{1} << 30, "leave it out for all of the context"));
    out->max_tokens = params.max_tokens();
  } else {
    const int64_t room = model.max_context_tokens;
    if (prompt_tokens >= room) {
      return Wrong("prompt tokens", prompt_tokens, absl::StrCat(room - 1, ", one less than the context"),
                   "shorten the prompt");
    }
    out->max_tokens = room - prompt_tokens;
  }
  out->min_tokens = params.min_tokens();
  return CheckCount("min_tokens", out->min_tokens, 0, out->max_tokens, "at most max_tokens");
}

float ScaleOf(const v1::WeightedAdapter& adapter) { return adapter.has_scale() ? adapter.scale() : 1.0f; }

absl::Status CheckComposition(const v1::GenerateRequest& request) {
  RETURN_IF_ERROR(CheckCount("adapters", request.adapters_size(), 0, kMaxAdapters, "name fewer"));
  std::set<std::string> names;
  for (const v1::WeightedAdapter& adapter : request.adapters()) {
    if (adapter.name().empty()) return Wrong("adapters name", "empty", "a name", "without adapters, the base answers");
    RETURN_IF_ERROR(CheckRequestedAdapter(adapter.name()));
    if (!names.insert(adapter.name()).second) {
      return Wrong("adapters", absl::StrCat(adapter.name(), " twice"), "each once", "add up the scales");
    }
    RETURN_IF_ERROR(CheckFloat("adapters scale", ScaleOf(adapter), -kMaxAdapterScale, kMaxAdapterScale,
                               "1 is the adapter as it is"));
  }
  return absl::OkStatus();
}

}  // namespace

void TranslateAdapters(const v1::GenerateRequest& proto, Request* request) {
  request->adapter = proto.adapters_size() == 0 ? proto.adapter() : proto.adapters(0).name();
  if (proto.adapters_size() == 1 && ScaleOf(proto.adapters(0)) == 1.0f) return;  // an adapter as it is
  for (const v1::WeightedAdapter& adapter : proto.adapters()) {
    request->composition.push_back({.name = adapter.name(), .scale = ScaleOf(adapter)});
  }
}

absl::Status CheckRequestedAdapter(const std::string& adapter) {
  return adapter.empty() ? absl::OkStatus() : CheckRequestedName(adapter);
}

absl::Status CheckText(const std::string& text, const ModelFacts& model) {
  const int64_t most_bytes = model.max_context_tokens * kMaxTextBytesPerToken;
  return CheckCount("text bytes", static_cast<int64_t>(text.size()), 0, most_bytes,
                    "that is more than the context can hold");
}

absl::Status CheckIdsToDecode(int64_t count, const ModelFacts& model) {
  return CheckCount("token_ids", count, 0, model.max_context_tokens, "decode them in parts");
}

absl::Status CheckGenerateRequest(const v1::GenerateRequest& request) {
  RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  if (request.adapters_size() > 0 && !request.adapter().empty()) {
    return Wrong("adapter and adapters", "both set", "one of them",
                 "a composition names all of its adapters in `adapters`");
  }
  RETURN_IF_ERROR(CheckRequestedAdapter(request.adapter()));
  RETURN_IF_ERROR(CheckComposition(request));
  RETURN_IF_ERROR(
      CheckCount("logprobs", request.has_logprobs() ? request.logprobs() : 0, 0, kMaxLogprobs, "alternatives a token"));
  RETURN_IF_ERROR(CheckCount("prompt_logprobs", request.has_prompt_logprobs() ? request.prompt_logprobs() : 0, 0,
                             kMaxLogprobs, "alternatives a token"));
  const v1::SamplingParams& params = request.sampling();
  RETURN_IF_ERROR(CheckCount("n", params.has_n() ? params.n() : 1, 1, kMaxN, "send more requests for more answers"));
  const bool empty = request.prompt_case() == v1::GenerateRequest::kText       ? request.text().empty()
                     : request.prompt_case() == v1::GenerateRequest::kTokenIds ? request.token_ids().ids().empty()
                                                                               : true;
  if (empty) return Wrong("prompt", "empty", "at least one token", "set text or token_ids");
  return absl::OkStatus();
}

// An answer holds them all until the client has read them.
absl::Status CheckPromptLogprobs(const SamplingOptions& options, uint32_t n, int64_t prompt_tokens) {
  constexpr int64_t kMostNumbers = int64_t{1} << 20;
  const double numbers =
      std::max<uint32_t>(1, n) * (1.0 + options.prompt_logprobs) * static_cast<double>(prompt_tokens);
  if (options.prompt_logprobs < 0 || numbers <= kMostNumbers) return absl::OkStatus();
  return Wrong("prompt_logprobs of n x prompt tokens",
               absl::StrCat(std::max<uint32_t>(1, n), " x ", prompt_tokens, " x (1 + ", options.prompt_logprobs, ")"),
               absl::StrCat(kMostNumbers), "ask for them with n = 1, or for fewer");
}

absl::StatusOr<SamplingOptions> TranslateSampling(const v1::GenerateRequest& request, const ModelFacts& model,
                                                  int64_t prompt_tokens, uint64_t drawn_seed) {
  const v1::SamplingParams& params = request.sampling();
  SamplingOptions options;
  ApplyDefaults(params, model.generation, &options);
  RETURN_IF_ERROR(CheckNumbers(options));
  RETURN_IF_ERROR(TranslateLengths(params, model, prompt_tokens, &options));
  const int64_t id_limit = IdLimit(request, model);
  RETURN_IF_ERROR(TranslateStops(params, id_limit, model, &options));
  RETURN_IF_ERROR(TranslateBias(params, id_limit, &options));
  options.seed = params.has_seed() ? params.seed() : drawn_seed;
  options.logprobs = request.has_logprobs() ? static_cast<int32_t>(request.logprobs()) : -1;
  options.prompt_logprobs = request.has_prompt_logprobs() ? static_cast<int32_t>(request.prompt_logprobs()) : -1;
  RETURN_IF_ERROR(CheckPromptLogprobs(options, params.n(), prompt_tokens));
  return options;
}

int64_t IdLimit(const v1::GenerateRequest& request, const ModelFacts& model) {
  const bool base = request.adapter().empty() && request.adapters().empty();
  return base ? model.vocab_size : int64_t{std::numeric_limits<int32_t>::max()};
}

absl::StatusOr<std::vector<int32_t>> TranslateIds(const google::protobuf::RepeatedField<uint32_t>& ids,
                                                  int64_t vocab_size, const char* field) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (const uint32_t id : ids) {
    if (id >= vocab_size) {
      return Wrong(field, id, absl::StrCat("below ", vocab_size), "ids of the base model's vocabulary");
    }
    out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

}  // namespace lorad
