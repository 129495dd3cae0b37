#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "adapters/train/example.h"
#include "model/text/chat_template.h"
#include "model/text/tokenizer.h"

namespace lorad {

enum class ExampleFormat : uint8_t {
  kTokens,      // {"input_ids": [...], "labels": [...]}; without labels every token is learnt
  kCompletion,  // {"prompt": "...", "completion": "..."}
  kAlpaca,      // {"instruction": "...", "input": "...", "output": "..."}, in Alpaca's own words
  kText,        // {"text": "..."}, all of it learnt
  kChat,        // {"messages": [{"role": "...", "content": "..."}, ...]}, as OpenAI's fine-tuning files
};

// A name of DatasetSpec.format. Errors: InvalidArgument naming the known ones.
absl::StatusOr<ExampleFormat> ParseExampleFormat(std::string_view name);
// By the keys of a line. Errors: InvalidArgument when they are no format's.
absl::StatusOr<ExampleFormat> DetectExampleFormat(std::string_view line);

struct ReadExampleResult {
  Example example;
  int64_t full_tokens = 0;  // before it was cut to max_length_tokens
};

// One line of JSON to the tokens of one sequence and the marks of what is learnt. Text is what Generate would make of
// the same prompt: the answer follows with the token that ends it, which is always learnt.
//
// Threads  const; several may read at once.
// Errors   InvalidArgument, saying what is wrong with the line, without its number; FailedPrecondition for text on a
//          model without a tokenizer, and for chat on one without a chat template.
class ExampleReader final {
 public:
  struct Options {
    ExampleFormat format = ExampleFormat::kTokens;
    std::shared_ptr<const Tokenizer> tokenizer = nullptr;
    // For chat: the model's, or why there is none.
    absl::StatusOr<std::shared_ptr<const ChatTemplate>> chat_template = absl::NotFoundError("none given");
    int32_t eos_token_id = -1;  // ends what is learnt; -1: the model has none, and text cannot be trained
    int64_t vocab_size = 0;
    int64_t max_length_tokens = 0;
    bool train_on_inputs = false;  // prompts are learnt too
  };
  explicit ExampleReader(Options options) : options_(std::move(options)) {}

  absl::StatusOr<ReadExampleResult> Read(std::string_view line) const;

 private:
  const Options options_;
};

}  // namespace lorad
