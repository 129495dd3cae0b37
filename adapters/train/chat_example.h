#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "adapters/train/example.h"
#include "model/text/chat_template.h"
#include "model/text/tokenizer.h"

namespace lorad {

// A line of OpenAI's fine-tuning format: {"messages": [{"role", "content", "weight"?}, …], "tools"?: […]}, rendered by
// the model's chat template. Learnt is what the assistant says, up to and with the token that ends its turn; a message
// of weight 0 is not.
//
// What the assistant says is what the template's {% generation %} tags mark. A template without them is rendered once
// more up to each answer, with and without it: what the answer adds is the assistant's. Where that cannot be told (a
// template that writes earlier messages otherwise once later ones come), the line is refused.
//
// Errors   InvalidArgument, what is wrong with the line.
absl::StatusOr<Example> ReadChat(const nlohmann::ordered_json& line, const ChatTemplate& chat,
                                 const Tokenizer& tokenizer, int32_t eos_token_id);

}  // namespace lorad
