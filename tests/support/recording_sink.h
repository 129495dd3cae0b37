#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/request.h"

namespace lorad {

// Keeps all that a request was told; safe to read from other threads.
class RecordingSink final : public TokenSink {
 public:
  // `gathered` counts the events that came since somebody set it to 0.
  explicit RecordingSink(std::shared_ptr<int> gathered = std::make_shared<int>(0)) : gathered_(std::move(gathered)) {}

  struct Answer {
    std::vector<int32_t> tokens;
    std::vector<TokenLogprob> prompt_logprobs;
    std::string adapter;
    int events = 0;
    int finishes = 0;
    Finish finish;
    bool told_after_finish = false;
  };

  void OnEvent(TokenEvent event) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++*gathered_;
    Answer& answer = answers_[event.index];
    answer.told_after_finish |= answer.finishes > 0;
    if (answer.events++ == 0) answer.adapter = event.adapter;
    for (const TokenLogprob& token : event.tokens) answer.tokens.push_back(token.token_id);
    answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), event.prompt_logprobs.begin(),
                                  event.prompt_logprobs.end());
    if (event.finish.has_value()) {
      ++answer.finishes;
      answer.finish = *event.finish;
    }
  }

  void OnTokenizer(std::shared_ptr<const Tokenizer> tokenizer) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    tokenizers_.push_back(std::move(tokenizer));
  }

  Answer answer(int32_t index = 0) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = answers_.find(index);
    return found == answers_.end() ? Answer() : found->second;
  }
  bool finished(int32_t index = 0) const { return answer(index).finishes > 0; }
  // With which its prompt was asked for.
  std::vector<std::shared_ptr<const Tokenizer>> tokenizers() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return tokenizers_;
  }

 private:
  const std::shared_ptr<int> gathered_;
  mutable std::mutex mutex_;
  std::map<int32_t, Answer> answers_;
  std::vector<std::shared_ptr<const Tokenizer>> tokenizers_;
};

}  // namespace lorad
