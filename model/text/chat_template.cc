#include "model/text/chat_template.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/base/file_source.h"
#include "model/base/status_macros.h"
#include "model/text/rust/lorad_text.h"
#include "model/text/tokenizer_config.h"
#include "model/text/utf8.h"

namespace lorad {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxTemplateBytes = int64_t{4} << 20;
constexpr int64_t kMaxConfigBytes = int64_t{64} << 20;
constexpr std::string_view kBegin = "\xEF\xB7\x90";  // U+FDD0, as chat.rs has it
constexpr std::string_view kEnd = "\xEF\xB7\x91";    // U+FDD1

std::string TakeBytes(LoradTextBytes bytes) {
  std::string text(bytes.data, bytes.size_bytes);
  lorad_text_bytes_free(bytes);
  return text;
}

absl::StatusOr<std::string> FromConfig(const std::string& path, const std::string& text) {
  const Json config = Json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::DataLossError(absl::StrCat(path, ": not a JSON object"));
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return absl::NotFoundError("the model has no chat template");
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const Json& named : *found) {
      if (!named.is_object() || named.value("name", Json()) != "default") continue;
      const Json source = named.value("template", Json());
      if (source.is_string()) return source.get<std::string>();
    }
  }
  return absl::DataLossError(absl::StrCat(path, ": chat_template: neither a text nor a list with a \"default\""));
}

absl::StatusOr<std::string> ReadSource(FileSource& files, const std::string& model_dir) {
  if (const std::string path = absl::StrCat(model_dir, "/chat_template.jinja"); files.Exists(path)) {
    return ReadWholeFile(files, path, kMaxTemplateBytes);
  }
  const std::string path = absl::StrCat(model_dir, "/tokenizer_config.json");
  if (!files.Exists(path)) return absl::NotFoundError("the model has no chat template");
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(files, path, kMaxConfigBytes));
  return FromConfig(path, text);
}

// Takes the marks out and remembers where they were.
absl::StatusOr<RenderedChat> TakeMarks(std::string_view marked) {
  RenderedChat chat;
  bool inside = false;
  while (!marked.empty()) {
    const size_t at = marked.find(inside ? kEnd : kBegin);
    if (marked.substr(0, at).find(inside ? kBegin : kEnd) != std::string_view::npos) {
      return absl::InvalidArgumentError("chat template: {% generation %} tags that are nested or out of order");
    }
    chat.text.append(marked.substr(0, at));
    if (at == std::string_view::npos) break;
    if (inside) {
      chat.generated.back().end = chat.text.size();
    } else {
      chat.generated.push_back({chat.text.size(), chat.text.size()});
    }
    inside = !inside;
    marked.remove_prefix(at + kBegin.size());
  }
  if (inside) return absl::InvalidArgumentError("chat template: {% generation %} without its end");
  return chat;
}

}  // namespace

ChatTemplate::ChatTemplate(std::string source, std::string bos, std::string eos)
    : source_(std::move(source)),
      bos_token_(std::move(bos)),
      eos_token_(std::move(eos)),
      has_generation_marks_(lorad_text_has_generation(source_.data(), source_.size())) {}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Load(const std::string& model_dir) {
  const std::unique_ptr<FileSource> files = LocalFiles();
  ASSIGN_OR_RETURN(std::string source, ReadSource(*files, model_dir));
  if (FindInvalidUtf8(source).has_value())
    return absl::DataLossError(absl::StrCat(model_dir, ": chat template: not UTF-8"));
  ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(*files, model_dir));
  return std::shared_ptr<const ChatTemplate>(
      new ChatTemplate(std::move(source), config.bos_token.value_or(""), config.eos_token.value_or("")));
}

absl::StatusOr<RenderedChat> ChatTemplate::Render(std::string_view messages, std::string_view tools,
                                                  bool add_generation_prompt) const {
  const auto text = [](std::string_view value) { return absl::string_view(value.data(), value.size()); };
  const auto quoted = [](const std::string& value) { return Json(value).dump(); };
  const std::string json =
      absl::StrCat(R"({"messages": )", text(messages), R"(, "tools": )", text(tools), R"(, "documents": null)",
                   R"(, "add_generation_prompt": )", add_generation_prompt ? "true" : "false", R"(, "bos_token": )",
                   quoted(bos_token_), R"(, "eos_token": )", quoted(eos_token_), "}");
  if (json.find(kBegin) != std::string::npos || json.find(kEnd) != std::string::npos) {
    return absl::InvalidArgumentError("messages: hold U+FDD0 or U+FDD1, which are no characters");
  }
  LoradTextBytes out = {}, error = {};
  if (lorad_text_render_chat(source_.data(), source_.size(), json.data(), json.size(), &out, &error) != kLoradTextOk) {
    return absl::InvalidArgumentError(absl::StrCat("chat template: ", TakeBytes(error)));
  }
  return TakeMarks(TakeBytes(out));
}

}  // namespace lorad
