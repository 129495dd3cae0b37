#include "adapters/train/example_reader.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "adapters/train/chat_example.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

using Json = nlohmann::ordered_json;

struct FormatName {
  std::string_view name;
  ExampleFormat format;
  std::string_view key;  // that a line of it has and no other's
};
constexpr std::array kFormats = {
    FormatName{"chat", ExampleFormat::kChat, "messages"},
    FormatName{"completion", ExampleFormat::kCompletion, "completion"},
    FormatName{"alpaca", ExampleFormat::kAlpaca, "instruction"},
    FormatName{"text", ExampleFormat::kText, "text"},
    FormatName{"tokens", ExampleFormat::kTokens, "input_ids"},
};

absl::Status Wrong(std::string_view what, std::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat(absl::string_view(what.data(), what.size()),
                                                 "; limit: ", absl::string_view(expected.data(), expected.size())));
}

absl::StatusOr<Json> ParseLine(std::string_view line) {
  Json json = Json::parse(line.begin(), line.end(), /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) return Wrong("not a JSON object", "one object a line, in UTF-8");
  return json;
}

absl::StatusOr<std::string> TextOf(const Json& json, const char* key, bool optional = false) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) {
    if (optional) return std::string();
    return Wrong(absl::StrCat(key, ": missing"), "a string");
  }
  if (!it->is_string()) return Wrong(absl::StrCat(key, ": not a string"), "a string");
  return it->get<std::string>();
}

absl::StatusOr<std::vector<int32_t>> IdsOf(const Json& json, const char* key, int64_t vocab_size, bool labels) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_array()) return Wrong(absl::StrCat(key, ": missing or not a list"), "token ids");
  std::vector<int32_t> ids;
  ids.reserve(it->size());
  for (const Json& value : *it) {
    const bool is_number = value.is_number_integer();
    const int64_t id = is_number ? value.get<int64_t>() : -1;
    const bool is_mark = labels && id == kNotTrained;
    if (!is_number || (!is_mark && (id < 0 || id >= vocab_size))) {
      return Wrong(absl::StrCat(key, "[", ids.size(),
                                "]: ", value.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 40)),
                   absl::StrCat("0..", vocab_size - 1, labels ? ", or -100" : ""));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

absl::StatusOr<Example> ReadTokens(const Json& json, int64_t vocab_size) {
  Example example;
  ASSIGN_OR_RETURN(example.token_ids, IdsOf(json, "input_ids", vocab_size, /*labels=*/false));
  example.labels = example.token_ids;
  if (!json.contains("labels")) return example;
  ASSIGN_OR_RETURN(example.labels, IdsOf(json, "labels", vocab_size, /*labels=*/true));
  if (example.labels.size() == example.token_ids.size()) return example;
  return Wrong(absl::StrCat("labels: ", example.labels.size()),
               absl::StrCat(example.token_ids.size(), ", one for each of input_ids"));
}

// Source: tatsu-lab/stanford_alpaca, train.py.
std::string AlpacaPrompt(const std::string& instruction, const std::string& input) {
  if (input.empty()) {
    return absl::StrCat(
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\n",
        instruction, "\n\n### Response:");
  }
  return absl::StrCat(
      "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
      "response that appropriately completes the request.\n\n### Instruction:\n",
      instruction, "\n\n### Input:\n", input, "\n\n### Response:");
}

// What a tokenizer puts at the end of every text comes behind the answer only.
absl::StatusOr<std::vector<int32_t>> EncodeOpen(const Tokenizer& tokenizer, const std::string& text, int32_t eos) {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer.Encode(text, /*add_special_tokens=*/true));
  if (ids.empty() || ids.back() != eos) return ids;
  ASSIGN_OR_RETURN(const std::vector<int32_t> plain, tokenizer.Encode(text, /*add_special_tokens=*/false));
  if (plain.empty() || plain.back() != eos) ids.pop_back();
  return ids;
}

bool BeginsWith(absl::Span<const int32_t> ids, absl::Span<const int32_t> prefix) {
  return ids.size() >= prefix.size() && ids.subspan(0, prefix.size()) == prefix;
}

// The prompt's ids are those that a request with this prompt has. The answer's are those of the whole text behind
// them, or, where the border falls into a token, those of the answer alone.
absl::StatusOr<Example> Join(const Tokenizer& tokenizer, const std::string& prompt, const std::string& answer,
                             int32_t eos) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> head, EncodeOpen(tokenizer, prompt, eos));
  Example example;
  ASSIGN_OR_RETURN(example.token_ids, EncodeOpen(tokenizer, absl::StrCat(prompt, answer), eos));
  if (!BeginsWith(example.token_ids, head)) {
    example.token_ids = head;
    ASSIGN_OR_RETURN(const std::vector<int32_t> tail, tokenizer.Encode(answer, /*add_special_tokens=*/false));
    example.token_ids.insert(example.token_ids.end(), tail.begin(), tail.end());
  }
  example.token_ids.push_back(eos);
  example.labels = example.token_ids;
  std::fill_n(example.labels.begin(), head.size(), kNotTrained);
  return example;
}

absl::StatusOr<Example> ReadText(const ExampleReader::Options& options, const Json& json) {
  const Tokenizer& tokenizer = *options.tokenizer;
  const int32_t eos = options.eos_token_id;
  switch (options.format) {
    case ExampleFormat::kChat:
      if (options.chat_template.ok()) return ReadChat(json, **options.chat_template, tokenizer, eos);
      return absl::FailedPreconditionError(absl::StrCat(
          "dataset.format: chat; ", options.chat_template.status().message(), "; use completion or tokens"));
    case ExampleFormat::kCompletion: {
      ASSIGN_OR_RETURN(const std::string prompt, TextOf(json, "prompt"));
      ASSIGN_OR_RETURN(const std::string completion, TextOf(json, "completion"));
      return Join(tokenizer, prompt, completion, eos);
    }
    case ExampleFormat::kAlpaca: {
      ASSIGN_OR_RETURN(const std::string instruction, TextOf(json, "instruction"));
      ASSIGN_OR_RETURN(const std::string input, TextOf(json, "input", /*optional=*/true));
      ASSIGN_OR_RETURN(const std::string output, TextOf(json, "output"));
      return Join(tokenizer, AlpacaPrompt(instruction, input), output, eos);
    }
    default: {
      ASSIGN_OR_RETURN(const std::string text, TextOf(json, "text"));
      ASSIGN_OR_RETURN(std::vector<int32_t> ids, EncodeOpen(tokenizer, text, eos));
      ids.push_back(eos);
      return Example{ids, ids};
    }
  }
}

}  // namespace

absl::StatusOr<ExampleFormat> ParseExampleFormat(std::string_view name) {
  for (const FormatName& known : kFormats) {
    if (known.name == name) return known.format;
  }
  return Wrong(absl::StrCat("dataset.format: ", absl::string_view(name.data(), name.size())),
               "chat, completion, alpaca, text, tokens");
}

absl::StatusOr<ExampleFormat> DetectExampleFormat(std::string_view line) {
  ASSIGN_OR_RETURN(const Json json, ParseLine(line));
  for (const FormatName& known : kFormats) {
    if (json.contains(std::string(known.key))) return known.format;
  }
  return Wrong("its keys are those of no format",
               "messages; prompt and completion; instruction and output; text; input_ids and labels");
}

absl::StatusOr<ReadExampleResult> ExampleReader::Read(std::string_view line) const {
  ASSIGN_OR_RETURN(const Json json, ParseLine(line));
  ReadExampleResult result;
  if (options_.format == ExampleFormat::kTokens) {
    ASSIGN_OR_RETURN(result.example, ReadTokens(json, options_.vocab_size));
  } else if (options_.tokenizer == nullptr || options_.eos_token_id < 0) {
    return absl::FailedPreconditionError("the model has no tokenizer or no end-of-sequence token; use format tokens");
  } else {
    ASSIGN_OR_RETURN(result.example, ReadText(options_, json));
    if (options_.train_on_inputs) result.example.labels = result.example.token_ids;
  }
  Example& example = result.example;
  result.full_tokens = static_cast<int64_t>(example.token_ids.size());
  if (result.full_tokens > options_.max_length_tokens) {
    example.token_ids.resize(static_cast<size_t>(options_.max_length_tokens));
    example.labels.resize(static_cast<size_t>(options_.max_length_tokens));
  }
  if (TrainedTokens(example) > 0) return result;
  return Wrong(absl::StrCat("tokens: ", example.token_ids.size(), ", none of them learnt"),
               result.full_tokens > options_.max_length_tokens
                   ? absl::StrCat("at least one within dataset.max_length_tokens ", options_.max_length_tokens)
                   : std::string("at least one label behind the first token"));
}

}  // namespace lorad
