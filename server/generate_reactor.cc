#include "server/generate_reactor.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/text/detokenizer.h"
#include "scheduler/composition.h"
#include "server/prompt.h"
#include "server/to_proto.h"
#include "server/translate.h"

namespace lorad {
namespace {

// Prompt and sampling, as far as they can be told: a text that awaits its tokenizer is checked as an empty one.
absl::Status AddPrompt(const v1::GenerateRequest& proto, const Backend& backend, uint64_t drawn_seed,
                       Request* request) {
  if (proto.prompt_case() == v1::GenerateRequest::kTokenIds) {
    ASSIGN_OR_RETURN(request->prompt_ids,
                     TranslateIds(proto.token_ids().ids(), IdLimit(proto, backend.model), "token_ids"));
  } else if (request->awaits_tokenizer) {
    RETURN_IF_ERROR(CheckText(proto.text(), backend.model));
  } else {
    ASSIGN_OR_RETURN(request->prompt_ids, PromptIds(proto.text(), *request, backend));
  }
  const auto prompt_tokens = static_cast<int64_t>(request->prompt_ids.size());
  ASSIGN_OR_RETURN(request->sampling, TranslateSampling(proto, backend.model, prompt_tokens, drawn_seed));
  const bool needs_tokenizer = !request->awaits_tokenizer && !request->sampling.stop.empty();
  if (!needs_tokenizer || TokenizerOf(*request, backend) != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError("stop: the model's folder has no tokenizer; use stop_token_ids");
}

PieceDecoder DecoderFor(const std::shared_ptr<const Tokenizer>& tokenizer, absl::Span<const int32_t> prompt_ids) {
  if (tokenizer == nullptr) {
    return {[](int32_t) { return std::string(); }, [] { return std::string(); }};
  }
  auto detokenizer = std::make_shared<Detokenizer>(tokenizer, prompt_ids, /*skip_special_tokens=*/true);
  return {[detokenizer](int32_t id) { return detokenizer->Append(id); },
          [detokenizer] { return detokenizer->Finish(); }};
}

}  // namespace

GenerateReactor* GenerateReactor::Start(grpc::CallbackServerContext* context, const v1::GenerateRequest& proto,
                                        const Backend* backend, RequestNumbers* numbers, Metrics* metrics, Log* log) {
  std::shared_ptr<GenerateReactor> reactor(new GenerateReactor(context, backend, metrics, log));
  reactor->self_ = reactor;
  const int64_t now_us = backend->clock->NowUs();
  const Arrival arrival{now_us, DeadlineUs(*context, now_us)};
  if (proto.text().size() <= LongTexts::kLongBytes) {
    reactor->EndUnlessOk(reactor->Begin(arrival, proto, numbers));
    return reactor.get();
  }
  // The call, and its message with it, may end while the text waits.
  reactor->EndUnlessOk(backend->long_texts->Post(
      [reactor, arrival, proto, numbers] { reactor->EndUnlessOk(reactor->Begin(arrival, proto, numbers)); }));
  return reactor.get();
}

GenerateReactor* GenerateReactor::Refuse(const absl::Status& status, Metrics* metrics, Log* log) {
  std::shared_ptr<GenerateReactor> reactor(new GenerateReactor(/*context=*/nullptr, /*backend=*/nullptr, metrics, log));
  reactor->self_ = reactor;
  const std::lock_guard<std::mutex> lock(reactor->mutex_);
  reactor->End(status);
  return reactor.get();
}

absl::Status GenerateReactor::Begin(const Arrival& arrival, const v1::GenerateRequest& proto, RequestNumbers* numbers) {
  const RequestId id = numbers->NextId();
  RETURN_IF_ERROR(CheckGenerateRequest(proto));
  Request request;
  request.id = id;
  request.request_id = proto.request_id().empty() ? absl::StrCat("lorad-", id) : proto.request_id();
  TranslateAdapters(proto, &request);
  FindTokenizer(&request);
  const uint64_t drawn_seed = numbers->DrawSeed();
  RETURN_IF_ERROR(AddPrompt(proto, *backend_, drawn_seed, &request));
  request.max_tokens_is_default = !proto.sampling().has_max_tokens();
  request.n = proto.sampling().has_n() ? static_cast<int32_t>(proto.sampling().n()) : 1;
  request.priority = proto.priority();
  request.arrival_us = arrival.now_us;
  request.deadline_us = arrival.deadline_us;
  log_->Debug("request", {{"request_id", request.request_id},
                          {"adapter", AnswersAs(request)},
                          {"prompt_tokens", static_cast<int64_t>(request.prompt_ids.size())},
                          {"n", request.n}});
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return absl::OkStatus();  // cancelled while its text waited
    request_id_ = request.request_id;
    context_->AddInitialMetadata("lorad-request-id", request_id_);
  }
  AddPromptFn add_prompt;
  if (request.awaits_tokenizer) {
    add_prompt = [backend = backend_, proto, drawn_seed](Request* awaiting) {
      return AddPrompt(proto, *backend, drawn_seed, awaiting);
    };
  }
  return Submit(std::move(request), std::move(add_prompt));
}

void GenerateReactor::OnPrompt(const Request& request) {
  const std::shared_ptr<const Tokenizer> tokenizer = TokenizerOf(request, *backend_);
  builder_ =
      std::make_unique<ReplyBuilder>(request.n, static_cast<int64_t>(request.prompt_ids.size()), request.sampling,
                                     [&] { return DecoderFor(tokenizer, request.prompt_ids); });
}

void GenerateReactor::Handle(const TokenEvent& event) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (ended_) return;
  if (builder_ == nullptr) return End(event.finish->status);  // before its prompt was known; it never began
  if (builder_->complete()) return;
  ReplyBuilder::Reply reply = builder_->Build(event);
  if (reply.stopped) backend_->engine->Cancel(id_, event.index, "stop string", /*as_stop=*/true);
  Enqueue(std::move(reply.messages));
  if (!writing_) SendNext();  // Only what waits behind a write says that the client is slow.
  if (!ended_ && !builder_->complete() && unsent_bytes_ > kMaxUnsentBytes) {
    const std::string detail = absl::StrCat("client reads too slowly: unsent bytes: ", unsent_bytes_,
                                            "; limit: ", kMaxUnsentBytes, "; read faster");
    log_->Warning("slow_client", {{"request_id", request_id_}, {"unsent_bytes", unsent_bytes_}});
    backend_->engine->Cancel(id_, -1, detail);
    Enqueue(builder_->AbortRest(detail));
    if (!writing_) SendNext();
  }
  if (!ended_ && builder_->complete() && !std::exchange(waiting_for_reader_, true)) {
    last_read_us_ = backend_->clock->NowUs();
    lock.unlock();
    WaitForReader();
  }
}

void GenerateReactor::WaitForReader() {
  const std::weak_ptr<GenerateReactor> weak = std::static_pointer_cast<GenerateReactor>(shared_from_this());
  backend_->unread->Add(
      [weak]() -> std::optional<UnreadAnswer> {
        const auto self = weak.lock();
        return self ? self->Unread() : std::nullopt;
      },
      [weak] {
        if (const auto self = weak.lock()) self->GiveUpOnReader();
      });
}

std::optional<UnreadAnswer> GenerateReactor::Unread() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return std::nullopt;
  return UnreadAnswer{static_cast<int64_t>(unread_bytes_), backend_->clock->NowUs() - last_read_us_};
}

void GenerateReactor::Enqueue(std::vector<v1::GenerateResponse> messages) {
  for (v1::GenerateResponse& message : messages) {
    const size_t bytes = message.ByteSizeLong();
    const size_t counted_bytes = message.prompt_logprobs().empty() ? bytes : 0;
    unread_bytes_ += bytes;
    unsent_bytes_ += counted_bytes;
    unsent_.push_back({std::move(message), bytes, counted_bytes});
  }
}

void GenerateReactor::SendNext() {
  if (ended_) return;
  if (!unsent_.empty()) {
    writing_ = true;
    unsent_bytes_ -= unsent_.front().counted_bytes;
    StartWrite(&unsent_.front().message);
  } else if (builder_->complete()) {
    End(builder_->status());
  }
}

void GenerateReactor::OnWriteDone(bool ok) {
  const std::lock_guard<std::mutex> lock(mutex_);
  writing_ = false;
  unread_bytes_ -= unsent_.front().bytes;
  unsent_.pop_front();
  last_read_us_ = backend_->clock->NowUs();
  if (ok) {
    SendNext();
  } else if (!ended_) {
    backend_->engine->Cancel(id_, -1, "client went away");
    End(absl::CancelledError("client went away"));
  }
}

void GenerateReactor::OnCancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return;
  const bool answered = builder_ != nullptr && builder_->complete();
  if (id_ != 0 && !answered) backend_->engine->Cancel(id_, -1, "client cancelled");
  log_->Debug("cancelled", {{"request_id", request_id_}});
  End(CancelledByCaller());
}

void GenerateReactor::End(const absl::Status& status) {
  if (std::exchange(ended_, true)) return;
  if (!status.ok() && !absl::IsCancelled(status)) {
    metrics_->CountRefused(status.code());
    log_->Debug("refused", {{"request_id", request_id_}, {"status", status.ToString()}});
  }
  Finish(ToGrpc(status));
}

void GenerateReactor::GiveUpOnReader() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_ || context_ == nullptr) return;
  log_->Warning("client_never_read", {{"request_id", request_id_}, {"unread_bytes", unread_bytes_}});
  context_->TryCancel();  // OnCancel follows.
}

void GenerateReactor::OnDone() {
  std::shared_ptr<PromptCall> self;  // Goes last, after the lock.
  const std::lock_guard<std::mutex> lock(mutex_);
  context_ = nullptr;
  self = std::move(self_);
}

}  // namespace lorad
