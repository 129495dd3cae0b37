#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace lorad {

// A part of a text, in bytes.
struct TextSpan {
  size_t begin;
  size_t end;
};

struct RenderedChat {
  std::string text;
  std::vector<TextSpan> generated;  // between the template's {% generation %} tags, in order
};

// The chat template of a model folder: chat_template.jinja, else chat_template of tokenizer_config.json (of several the
// one called "default"). Rendered as transformers does (model/text/rust/src/chat.rs).
//
// Threads  immutable.
// Errors   Load: NotFound without a template; DataLoss for a broken file. Render: InvalidArgument with the template's
//          own words (raise_exception), or what is wrong with it.
class ChatTemplate final {
 public:
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Load(const std::string& model_dir);

  // messages: a JSON list, as OpenAI's; tools: one too, or null. The rendered text has the BOS token where the template
  // wants one.
  absl::StatusOr<RenderedChat> Render(std::string_view messages, std::string_view tools,
                                      bool add_generation_prompt) const;
  // The template says itself which parts the model generates.
  bool has_generation_marks() const { return has_generation_marks_; }

 private:
  ChatTemplate(std::string source, std::string bos, std::string eos);
  const std::string source_;
  const std::string bos_token_;
  const std::string eos_token_;
  const bool has_generation_marks_;
};

}  // namespace lorad
