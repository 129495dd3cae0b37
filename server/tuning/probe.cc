#include "server/tuning/probe.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

// Above all that the front end draws.
RequestId NextId() {
  static std::atomic<uint64_t> last = uint64_t{1} << 63;
  return ++last;
}

class WaitingSink final : public TokenSink {
 public:
  void OnEvent(TokenEvent event) override {
    for (TokenLogprob& token : event.prompt_logprobs) prompt.push_back(std::move(token));
    for (const TokenLogprob& token : event.tokens) tokens.push_back(token.token_id);
    if (event.finish.has_value()) finish.set_value(*event.finish);
  }
  std::vector<TokenLogprob> prompt;
  std::vector<int32_t> tokens;
  std::promise<Finish> finish;
};

}  // namespace

absl::Status Probe::Load(const std::string& name, const std::string& folder, bool replace) const {
  auto answer = std::make_shared<std::promise<absl::Status>>();
  LoadCommand command;
  command.name = name;
  command.path = folder;
  command.replace = replace;
  command.reply = [answer](const absl::StatusOr<AdapterInfo>& info) { answer->set_value(info.status()); };
  RETURN_IF_ERROR(backend_.engine->Load(std::move(command)));
  return answer->get_future().get();
}

void Probe::Unload(const std::string& name) const {
  auto answer = std::make_shared<std::promise<void>>();
  UnloadCommand command{name, [answer](const absl::Status&) { answer->set_value(); }};
  if (backend_.engine->Unload(std::move(command)).ok()) answer->get_future().wait();
}

absl::StatusOr<Probe::Collected> Probe::Ask(const std::string& adapter, std::vector<int32_t> ids,
                                            SamplingOptions sampling) const {
  auto sink = std::make_shared<WaitingSink>();
  Request request;
  request.id = NextId();
  request.request_id = "tuning";
  request.adapter = adapter;
  request.prompt_ids = std::move(ids);
  request.sampling = std::move(sampling);
  request.sampling.temperature = 0.0f;
  request.sampling.stop_token_ids = backend_.model.eos_token_ids;
  request.arrival_us = backend_.clock->NowUs();
  request.sink = sink;
  RETURN_IF_ERROR(backend_.engine->Submit(std::move(request)));
  const Finish finish = sink->finish.get_future().get();
  RETURN_IF_ERROR(finish.status);
  if (finish.reason == FinishReason::kAbort) return absl::AbortedError(finish.abort_detail);
  return Collected{std::move(sink->prompt), std::move(sink->tokens)};
}

absl::StatusOr<std::string> Probe::Answer(const std::string& adapter, const std::string& prompt,
                                          int64_t max_tokens) const {
  if (backend_.tokenizer == nullptr) return absl::FailedPreconditionError("the model has no tokenizer");
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, backend_.tokenizer->Encode(prompt, /*add_special_tokens=*/true));
  SamplingOptions sampling;
  sampling.max_tokens = max_tokens;
  ASSIGN_OR_RETURN(const Collected answer, Ask(adapter, std::move(ids), std::move(sampling)));
  return backend_.tokenizer->Decode(answer.tokens, /*skip_special_tokens=*/true);
}

absl::StatusOr<std::vector<float>> Probe::Score(const std::string& adapter, const std::vector<int32_t>& ids) const {
  std::vector<int32_t> fitting = ids;  // with room for the token that is drawn
  fitting.resize(std::min(ids.size(), static_cast<size_t>(backend_.model.max_context_tokens - 1)));
  SamplingOptions sampling;
  sampling.max_tokens = 1;
  sampling.prompt_logprobs = 0;
  ASSIGN_OR_RETURN(const Collected answer, Ask(adapter, std::move(fitting), std::move(sampling)));
  std::vector<float> scores;
  for (size_t i = 1; i < answer.prompt.size(); ++i) {
    scores.push_back(answer.prompt[i].logprob);
    if (std::isfinite(scores.back())) continue;
    return absl::DataLossError(absl::StrCat("log-probability of token ", i, ": ", scores.back(), "; limit: finite"));
  }
  return scores;
}

absl::StatusOr<double> Probe::Loss(const std::string& adapter, const ExampleSource& examples) const {
  double sum = 0;
  int64_t trained_tokens = 0;
  for (int64_t index = 0; index < examples.count; ++index) {
    ASSIGN_OR_RETURN(const Example example, examples.get(index));
    ASSIGN_OR_RETURN(const std::vector<float> scores, Score(adapter, example.token_ids));
    for (size_t i = 0; i < scores.size(); ++i) {
      if (example.labels[i + 1] == kNotTrained) continue;
      sum -= scores[i];
      ++trained_tokens;
    }
  }
  return sum / static_cast<double>(std::max<int64_t>(1, trained_tokens));
}

}  // namespace lorad
