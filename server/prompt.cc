#include "server/prompt.h"

#include <grpc/support/time.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "server/translate.h"

namespace lorad {

std::shared_ptr<const Tokenizer> TokenizerOf(const Request& request, const Backend& backend) {
  return request.tokenizer != nullptr ? request.tokenizer : backend.tokenizer;
}

absl::StatusOr<std::vector<int32_t>> PromptIds(const std::string& text, const Request& request,
                                               const Backend& backend) {
  const std::shared_ptr<const Tokenizer> tokenizer = TokenizerOf(request, backend);
  if (tokenizer == nullptr) {
    return absl::FailedPreconditionError("text: the model's folder has no tokenizer; send token_ids");
  }
  RETURN_IF_ERROR(CheckText(text, backend.model));
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(text, /*add_special_tokens=*/true));
  if (ids.empty())
    return absl::InvalidArgumentError("prompt: no tokens; limit: at least one; the tokenizer made none of the text");
  for (const int32_t id : ids) {
    if (request.tokenizer == nullptr && id >= backend.model.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("text: token ", id, "; limit: below ", backend.model.vocab_size,
                                                     "; the tokenizer knows more tokens than the model"));
    }
  }
  return ids;
}

std::optional<int64_t> DeadlineUs(const grpc::CallbackServerContext& context, int64_t now_us) {
  constexpr int64_t kFarSeconds = int64_t{10} * 365 * 24 * 3600;
  const gpr_timespec deadline = context.raw_deadline();
  const gpr_timespec left =
      deadline.clock_type == GPR_TIMESPAN ? deadline : gpr_time_sub(deadline, gpr_now(deadline.clock_type));
  if (left.tv_sec > kFarSeconds) return std::nullopt;
  return now_us + std::max<int64_t>(left.tv_sec, -kFarSeconds) * 1'000'000 + left.tv_nsec / 1000;
}

}  // namespace lorad
