#pragma once

#include <grpcpp/server_context.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/request.h"
#include "server/backend.h"

namespace lorad {

// What calls that compute a prompt have in common.

// The adapter's own tokenizer, else the base's; null: neither has one. Not of a request that awaits its tokenizer.
std::shared_ptr<const Tokenizer> TokenizerOf(const Request& request, const Backend& backend);

// A text's tokens, special ones as the tokenizer says. Errors: FailedPrecondition without a tokenizer; InvalidArgument
// for a text without tokens, far too long, or with tokens that the model does not have (an adapter's own are checked by
// the engine).
absl::StatusOr<std::vector<int32_t>> PromptIds(const std::string& text, const Request& request, const Backend& backend);

// The call's own deadline, on our clock; a far one is none, as clocks of nanoseconds cannot hold it.
std::optional<int64_t> DeadlineUs(const grpc::CallbackServerContext& context, int64_t now_us);

}  // namespace lorad
