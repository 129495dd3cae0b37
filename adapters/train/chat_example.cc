#include "adapters/train/chat_example.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Json = nlohmann::ordered_json;  // tools are written in the order of their keys

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

struct Conversation {
  Json messages = Json::array();  // without weights, which no template knows
  std::string tools = "null";
  std::vector<size_t> answers;  // indices of the assistant's messages
  std::vector<bool> learnt;     // of each answer
};

absl::StatusOr<Conversation> ReadConversation(const Json& line) {
  const auto messages = line.find("messages");
  if (messages == line.end() || !messages->is_array() || messages->empty()) {
    return absl::InvalidArgumentError("messages: missing or empty; limit: a list of at least one message");
  }
  Conversation conversation;
  for (const Json& message : *messages) {
    const std::string where = absl::StrCat("messages[", conversation.messages.size(), "]");
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".role: missing; limit: a string"));
    }
    const bool has_text = message.contains("content") && message["content"].is_string();
    if (!has_text && !message.contains("tool_calls")) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".content: missing; limit: a string"));
    }
    Json copy = message;
    copy.erase("weight");
    if (message["role"] == "assistant") {
      const Json weight = message.value("weight", Json(1));
      if (weight != 0 && weight != 1) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, ".weight: ", Dump(weight).substr(0, 40), "; limit: 0 or 1"));
      }
      conversation.answers.push_back(conversation.messages.size());
      conversation.learnt.push_back(weight == 1);
    }
    conversation.messages.push_back(std::move(copy));
  }
  if (const auto tools = line.find("tools"); tools != line.end()) conversation.tools = Dump(*tools);
  if (conversation.answers.empty()) {
    return absl::InvalidArgumentError("messages: none of the assistant; limit: at least one, to learn from");
  }
  return conversation;
}

std::string FirstMessages(const Conversation& conversation, size_t count) {
  return Dump(Json(conversation.messages.begin(), conversation.messages.begin() + static_cast<int64_t>(count)));
}

// What each answer adds to the text, for a template that does not mark it.
absl::StatusOr<std::vector<TextSpan>> SpansByPrefix(const Conversation& conversation, const ChatTemplate& chat,
                                                    const std::string& text) {
  std::vector<TextSpan> spans;
  for (const size_t answer : conversation.answers) {
    ASSIGN_OR_RETURN(const RenderedChat before, chat.Render(FirstMessages(conversation, answer), conversation.tools,
                                                            /*add_generation_prompt=*/true));
    ASSIGN_OR_RETURN(const RenderedChat after, chat.Render(FirstMessages(conversation, answer + 1), conversation.tools,
                                                           /*add_generation_prompt=*/false));
    if (!absl::StartsWith(after.text, before.text) || !absl::StartsWith(text, after.text)) {
      return absl::InvalidArgumentError(
          absl::StrCat("messages[", answer, "]: the chat template does not say which part is the assistant's; limit: ",
                       "one with {% generation %} tags, or whose text only grows with each message"));
    }
    spans.push_back({before.text.size(), after.text.size()});
  }
  return spans;
}

// Marks the tokens that begin inside the span, without white space behind the token that ends the turn, and that token
// itself where it lies just behind the span.
void MarkSpan(const TextSpan& span, const std::vector<TokenBegin>& tokens, const std::string& text,
              const Tokenizer& tokenizer, Example* example) {
  size_t first = 0;
  while (first < tokens.size() && tokens[first].begin < span.begin) ++first;
  size_t last = first;
  while (last < tokens.size() && tokens[last].begin < span.end) ++last;
  size_t end = last;  // behind the last special token, if only white space follows
  while (end > first && !tokenizer.is_special(tokens[end - 1].id) &&
         text.find_first_not_of(" \n\t", tokens[end - 1].begin) >= span.end) {
    --end;
  }
  if (end > first && tokenizer.is_special(tokens[end - 1].id)) last = end;
  const bool ended = last > first && tokenizer.is_special(tokens[last - 1].id);
  if (!ended && last < tokens.size() && tokenizer.is_special(tokens[last].id)) ++last;
  for (size_t i = first; i < last; ++i) example->labels[i] = example->token_ids[i];
}

}  // namespace

absl::StatusOr<Example> ReadChat(const Json& line, const ChatTemplate& chat, const Tokenizer& tokenizer,
                                 int32_t eos_token_id) {
  ASSIGN_OR_RETURN(const Conversation conversation, ReadConversation(line));
  ASSIGN_OR_RETURN(RenderedChat rendered,
                   chat.Render(Dump(conversation.messages), conversation.tools, /*add_generation_prompt=*/false));
  if (!chat.has_generation_marks()) {
    ASSIGN_OR_RETURN(rendered.generated, SpansByPrefix(conversation, chat, rendered.text));
  }
  const std::vector<bool>& learnt = conversation.learnt;
  const bool all_learnt = std::find(learnt.begin(), learnt.end(), false) == learnt.end();
  if (rendered.generated.size() != learnt.size() && (!all_learnt || rendered.generated.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("chat template: {% generation %} parts: ", rendered.generated.size(),
                                                   "; limit: ", learnt.size(), ", one an answer"));
  }
  ASSIGN_OR_RETURN(const std::vector<TokenBegin> tokens, tokenizer.EncodeWithBegins(rendered.text));
  Example example;
  for (const TokenBegin& token : tokens) example.token_ids.push_back(token.id);
  example.labels.assign(example.token_ids.size(), kNotTrained);
  for (size_t i = 0; i < rendered.generated.size(); ++i) {
    if (all_learnt || learnt[i]) MarkSpan(rendered.generated[i], tokens, rendered.text, tokenizer, &example);
  }
  // A template that leaves the last answer open: its end is learnt all the same.
  const bool open = !example.labels.empty() && example.labels.back() != kNotTrained &&
                    !tokenizer.is_special(example.token_ids.back());
  if (open && eos_token_id >= 0) {
    example.token_ids.push_back(eos_token_id);
    example.labels.push_back(eos_token_id);
  }
  return example;
}

}  // namespace lorad
