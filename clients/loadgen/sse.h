#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lorad {

// Reads the server-sent events of an OpenAI-shaped completion, in pieces as they come off the wire.
class CompletionEvents final {
 public:
  // How many messages with a choice the piece completed: as a rule one a token, its text perhaps empty.
  int64_t Add(std::string_view piece);

  bool finished() const { return finished_; }             // a finish_reason was seen
  int64_t usage_tokens() const { return usage_tokens_; }  // completion_tokens of the last usage, 0 before

 private:
  int64_t TakeLine(std::string_view line);

  std::string rest_;  // of a line that is not complete
  bool finished_ = false;
  int64_t usage_tokens_ = 0;
};

}  // namespace lorad
