#include "server/prompt_call.h"

#include <utility>

#include "model/base/status_macros.h"
#include "server/adapter_tokenizers.h"

namespace lorad {

RequestId RequestNumbers::NextId() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return ++last_id_;
}

uint64_t RequestNumbers::DrawSeed() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return seeds_();
}

void PromptCall::EndUnlessOk(const absl::Status& status) {
  if (status.ok()) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  End(status);
}

void PromptCall::FindTokenizer(Request* request) const {
  const auto tokenizer = KnownTokenizerOf(request->adapter, *backend_->engine->snapshot());
  request->awaits_tokenizer = !tokenizer.has_value();
  if (tokenizer.has_value()) request->tokenizer = *tokenizer;
}

absl::Status PromptCall::Submit(Request request, AddPromptFn add_prompt) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return absl::OkStatus();  // cancelled while its text waited
    id_ = request.id;
    if (request.awaits_tokenizer) {
      awaiting_ = std::make_unique<Awaiting>(Awaiting{request, std::move(add_prompt)});
    } else {
      OnPrompt(request);
    }
  }
  request.sink = shared_from_this();
  RETURN_IF_ERROR(backend_->engine->Submit(std::move(request)));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) backend_->engine->Cancel(id_, -1, "client cancelled");  // else its cancel may have come before it
  return absl::OkStatus();
}

void PromptCall::OnTokenizer(std::shared_ptr<const Tokenizer> tokenizer) {
  backend_->long_texts->PostAccepted(
      [self = shared_from_this(), tokenizer = std::move(tokenizer)] { self->GivePrompt(tokenizer); });
}

void PromptCall::GivePrompt(std::shared_ptr<const Tokenizer> tokenizer) {
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
  const absl::Status status = awaiting->add_prompt(&request);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return;
  if (!status.ok()) {
    backend_->engine->Cancel(id_, -1, "its prompt cannot be used");
    return End(status);
  }
  OnPrompt(request);
  backend_->engine->GivePrompt(std::move(request));
}

void PromptCall::OnEvent(TokenEvent event) {
  backend_->pump->Gather([self = shared_from_this(), event = std::move(event)] { self->Handle(event); });
}

}  // namespace lorad
