#include "server/inference_service.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "server/adapter_tokenizers.h"
#include "server/classify_reactor.h"
#include "server/to_proto.h"
#include "server/translate.h"
#include "server/unary_answer.h"

namespace lorad {
namespace {

// The adapter's own, or the base's; a name must be one that is there.
absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFor(const Backend& backend, const std::string& adapter) {
  RETURN_IF_ERROR(CheckRequestedAdapter(adapter));
  const auto own = KnownTokenizerOf(adapter, *backend.engine->snapshot());
  if (!own.has_value()) {
    return absl::NotFoundError(absl::StrCat("adapter: ", adapter, "; limit: a loaded one; load it first"));
  }
  if (*own != nullptr) return *own;
  if (backend.tokenizer != nullptr) return backend.tokenizer;
  return absl::FailedPreconditionError("tokenizer: none; limit: a model folder with tokenizer.json or tokenizer.model");
}

absl::Status TokenizeText(const Backend& backend, const v1::TokenizeRequest& request, v1::TokenizeResponse* response) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, TokenizerFor(backend, request.adapter()));
  RETURN_IF_ERROR(CheckText(request.text(), backend.model));
  const bool add_special_tokens = !request.has_add_special_tokens() || request.add_special_tokens();
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(request.text(), add_special_tokens));
  response->mutable_token_ids()->Add(ids.begin(), ids.end());
  return absl::OkStatus();
}

absl::Status DetokenizeIds(const Backend& backend, const v1::DetokenizeRequest& request,
                           v1::DetokenizeResponse* response) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, TokenizerFor(backend, request.adapter()));
  RETURN_IF_ERROR(CheckIdsToDecode(request.token_ids_size(), backend.model));
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                   TranslateIds(request.token_ids(), tokenizer->vocab_size(), "token_ids"));
  ASSIGN_OR_RETURN(*response->mutable_text(), tokenizer->Decode(ids, request.skip_special_tokens()));
  return absl::OkStatus();
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceService::Generate(grpc::CallbackServerContext* context,
                                                                           const v1::GenerateRequest* request) {
  const absl::StatusOr<const Backend*> backend = readiness_->Get();
  if (!backend.ok()) return GenerateReactor::Refuse(backend.status(), metrics_, log_);
  return GenerateReactor::Start(context, *request, *backend, &numbers_, metrics_, log_);
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  const absl::StatusOr<const Backend*> backend = readiness_->GetToRead();
  if (!backend.ok()) return FinishWith(context, backend.status());
  UnaryAnswer* const answer = UnaryAnswer::Start(context, *backend);
  const auto work = [backend = *backend, request, response, answer] {
    const absl::Status status = TokenizeText(*backend, *request, response);
    answer->End(status, response->ByteSizeLong());
  };
  if (request->text().size() <= LongTexts::kLongBytes) {
    work();
  } else if (const absl::Status posted = (*backend)->long_texts->Post(work); !posted.ok()) {
    answer->End(posted, 0);
  }
  return answer;
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const v1::DetokenizeRequest* request,
                                                       v1::DetokenizeResponse* response) {
  const absl::StatusOr<const Backend*> backend = readiness_->GetToRead();
  if (!backend.ok()) return FinishWith(context, backend.status());
  UnaryAnswer* const answer = UnaryAnswer::Start(context, *backend);
  const absl::Status status = DetokenizeIds(**backend, *request, response);
  answer->End(status, response->ByteSizeLong());
  return answer;
}

grpc::ServerUnaryReactor* InferenceService::GetModelInfo(grpc::CallbackServerContext* context,
                                                         const v1::GetModelInfoRequest*, v1::ModelInfo* response) {
  const absl::StatusOr<const Backend*> backend = readiness_->GetToRead();
  if (backend.ok()) *response = ToProto((*backend)->model);
  return FinishWith(context, backend.status());
}

grpc::ServerUnaryReactor* InferenceService::Classify(grpc::CallbackServerContext* context,
                                                     const v1::ClassifyRequest* request,
                                                     v1::ClassifyResponse* response) {
  return ClassifyReactor::Start(context, readiness_->Get(), *request, response, &numbers_, metrics_);
}

}  // namespace lorad
