#include "server/classify_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "server/prompt.h"
#include "server/to_proto.h"
#include "server/translate.h"

namespace lorad {
namespace {

// A text that awaits its tokenizer has no ids yet.
absl::Status AddPrompt(const v1::ClassifyRequest& proto, const Backend& backend, Request* request) {
  if (proto.input_case() == v1::ClassifyRequest::kText) {
    if (request->awaits_tokenizer) return CheckText(proto.text(), backend.model);
    ASSIGN_OR_RETURN(request->prompt_ids, PromptIds(proto.text(), *request, backend));
  } else {
    ASSIGN_OR_RETURN(request->prompt_ids, TranslateIds(proto.token_ids().ids(), backend.model.vocab_size, "token_ids"));
  }
  if (!request->prompt_ids.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("input: empty; limit: at least one token; set text or token_ids");
}

}  // namespace

ClassifyReactor* ClassifyReactor::Start(grpc::CallbackServerContext* context,
                                        const absl::StatusOr<const Backend*>& backend,
                                        const v1::ClassifyRequest& request, v1::ClassifyResponse* response,
                                        RequestNumbers* numbers, Metrics* metrics) {
  std::shared_ptr<ClassifyReactor> reactor(new ClassifyReactor(backend.ok() ? *backend : nullptr, response, metrics));
  reactor->self_ = reactor;
  if (!backend.ok()) {
    reactor->EndUnlessOk(backend.status());
    return reactor.get();
  }
  const int64_t now_us = (*backend)->clock->NowUs();
  const Arrival arrival{now_us, DeadlineUs(*context, now_us)};
  if (request.text().size() <= LongTexts::kLongBytes) {
    reactor->EndUnlessOk(reactor->Begin(arrival, request, numbers));
    return reactor.get();
  }
  reactor->EndUnlessOk((*backend)->long_texts->Post(
      [reactor, arrival, request, numbers] { reactor->EndUnlessOk(reactor->Begin(arrival, request, numbers)); }));
  return reactor.get();
}

absl::Status ClassifyReactor::Begin(const Arrival& arrival, const v1::ClassifyRequest& proto, RequestNumbers* numbers) {
  if (proto.adapter().empty()) {
    return absl::InvalidArgumentError("adapter: empty; limit: one with a classifier head; name it");
  }
  RETURN_IF_ERROR(CheckRequestedAdapter(proto.adapter()));
  Request request;
  request.id = numbers->NextId();
  request.request_id = absl::StrCat("lorad-", request.id);
  request.adapter = proto.adapter();
  request.classify = true;
  FindTokenizer(&request);
  RETURN_IF_ERROR(AddPrompt(proto, *backend_, &request));
  request.sampling.max_tokens = 1;
  request.arrival_us = arrival.now_us;
  request.deadline_us = arrival.deadline_us;
  AddPromptFn add_prompt;
  if (request.awaits_tokenizer) {
    add_prompt = [backend = backend_, proto](Request* awaiting) { return AddPrompt(proto, *backend, awaiting); };
  }
  return Submit(std::move(request), std::move(add_prompt));
}

void ClassifyReactor::Handle(const TokenEvent& event) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_ || !event.finish.has_value()) return;
  const lorad::Finish& finish = *event.finish;
  if (!finish.status.ok()) return End(finish.status);
  for (size_t i = 0; i < event.class_logits.size(); ++i) {
    response_->add_logits(event.class_logits[i]);
    response_->add_labels(absl::StrCat("LABEL_", i));
  }
  End(absl::OkStatus());
}

void ClassifyReactor::OnCancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return;
  if (id_ != 0) backend_->engine->Cancel(id_, -1, "client cancelled");
  End(CancelledByCaller());
}

void ClassifyReactor::End(const absl::Status& status) {
  if (std::exchange(ended_, true)) return;
  if (!status.ok() && !absl::IsCancelled(status)) metrics_->CountRefused(status.code());
  Finish(ToGrpc(status));
}

void ClassifyReactor::OnDone() {
  std::shared_ptr<PromptCall> self;  // goes last, after the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  self = std::move(self_);
}

}  // namespace lorad
