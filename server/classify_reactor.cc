#include "server/classify_reactor.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "server/adapter_tokenizers.h"
#include "server/prompt.h"
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
  std::shared_ptr<ClassifyReactor> reactor(new ClassifyReactor(response, metrics));
  reactor->self_ = reactor;
  if (!backend.ok()) {
    const std::lock_guard<std::mutex> lock(reactor->mutex_);
    reactor->End(backend.status());
    return reactor.get();
  }
  reactor->backend_ = *backend;
  reactor->arrival_us_ = (*backend)->clock->NowUs();
  reactor->deadline_us_ = DeadlineUs(*context, reactor->arrival_us_);
  if (request.text().size() <= LongTexts::kLongBytes) {
    reactor->BeginOrEnd(request, numbers);
    return reactor.get();
  }
  const absl::Status posted =
      (*backend)->long_texts->Post([reactor, request, numbers] { reactor->BeginOrEnd(request, numbers); });
  if (!posted.ok()) {
    const std::lock_guard<std::mutex> lock(reactor->mutex_);
    reactor->End(posted);
  }
  return reactor.get();
}

void ClassifyReactor::BeginOrEnd(const v1::ClassifyRequest& request, RequestNumbers* numbers) {
  const absl::Status status = Begin(request, numbers);
  if (status.ok()) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  End(status);
}

absl::Status ClassifyReactor::Begin(const v1::ClassifyRequest& proto, RequestNumbers* numbers) {
  if (proto.adapter().empty()) {
    return absl::InvalidArgumentError("adapter: empty; limit: one with a classifier head; name it");
  }
  RETURN_IF_ERROR(CheckRequestedAdapter(proto.adapter()));
  Request request;
  request.id = numbers->NextId();
  request.request_id = absl::StrCat("lorad-", request.id);
  request.adapter = proto.adapter();
  request.classify = true;
  const auto tokenizer = KnownTokenizerOf(request.adapter, *backend_->engine->snapshot());
  request.awaits_tokenizer = !tokenizer.has_value();
  if (tokenizer.has_value()) request.tokenizer = *tokenizer;
  RETURN_IF_ERROR(AddPrompt(proto, *backend_, &request));
  request.sampling.max_tokens = 1;
  request.arrival_us = arrival_us_;
  request.deadline_us = deadline_us_;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return absl::OkStatus();  // cancelled while its text waited
    id_ = request.id;
    if (request.awaits_tokenizer) awaiting_ = std::make_unique<Awaiting>(Awaiting{proto, request});
  }
  request.sink = shared_from_this();
  RETURN_IF_ERROR(backend_->engine->Submit(std::move(request)));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) backend_->engine->Cancel(id_, -1, "client cancelled");  // else its cancel may have come before it
  return absl::OkStatus();
}

void ClassifyReactor::OnTokenizer(std::shared_ptr<const Tokenizer> tokenizer) {
  backend_->long_texts->PostAccepted(
      [self = shared_from_this(), tokenizer = std::move(tokenizer)] { self->GivePrompt(tokenizer); });
}

void ClassifyReactor::GivePrompt(std::shared_ptr<const Tokenizer> tokenizer) {
  std::unique_ptr<Awaiting> awaiting;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    awaiting = std::move(awaiting_);
    if (ended_) return;  // and the engine was told
  }
  Request& request = awaiting->request;
  request.awaits_tokenizer = false;
  request.tokenizer = std::move(tokenizer);
  request.sink = shared_from_this();
  const absl::Status status = AddPrompt(awaiting->proto, *backend_, &request);
  if (status.ok()) return backend_->engine->GivePrompt(std::move(request));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return;
  backend_->engine->Cancel(id_, -1, "its prompt cannot be used");
  End(status);
}

void ClassifyReactor::OnEvent(TokenEvent event) {
  backend_->pump->Post([self = shared_from_this(), event = std::move(event)] { self->Handle(event); });
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
  std::shared_ptr<ClassifyReactor> self;  // goes last, after the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  self = std::move(self_);
}

}  // namespace lorad
