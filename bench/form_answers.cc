#include "bench/form_answers.h"

#include "model/base/check.h"

namespace lorad::bench {
namespace {

std::vector<float> Values(const std::vector<TokenLogprob>& tokens, size_t first) {
  std::vector<float> values;
  for (size_t i = first; i < tokens.size(); ++i) values.push_back(tokens[i].logprob);
  return values;
}

}  // namespace

SamplingOptions SamplingToCompare(int64_t tokens) {
  SamplingOptions sampling;
  sampling.max_tokens = tokens;
  sampling.ignore_eos = true;
  sampling.temperature = 0.0f;
  sampling.logprobs = 0;
  sampling.prompt_logprobs = 0;
  return sampling;
}

FormAnswer AnswerOf(const Recording& recording) {
  const Recording::Sequence& sequence = recording.sequences()[0];
  FormAnswer answer;
  for (const TokenLogprob& token : sequence.tokens) answer.ids.push_back(token.token_id);
  answer.of_prompt = Values(sequence.prompt_logprobs, 1);
  answer.of_tokens = Values(sequence.tokens, 0);
  return answer;
}

std::vector<std::vector<int32_t>> PromptsToCompare(const std::vector<int64_t>& lengths, int64_t vocab,
                                                   int32_t beginning) {
  uint64_t drawn = 1;
  std::vector<std::vector<int32_t>> prompts;
  for (const int64_t length : lengths) {
    std::vector<int32_t>& prompt = prompts.emplace_back();
    for (int64_t i = 0; i < length; ++i) {
      drawn = drawn * 6364136223846793005u + 1442695040888963407u;
      const auto token = static_cast<int64_t>((drawn >> 33) % static_cast<uint64_t>(vocab));
      prompt.push_back(static_cast<int32_t>(i < length / 2 ? (token + beginning) % vocab : token));
    }
  }
  return prompts;
}

Differences OfPrompts(const std::vector<FormAnswer>& a, const std::vector<FormAnswer>& b) {
  Differences differences;
  for (size_t r = 0; r < a.size(); ++r) {
    LORAD_CHECK(a[r].of_prompt.size() == b.at(r).of_prompt.size());
    for (size_t i = a[r].of_prompt.size() / 2 + 1; i < a[r].of_prompt.size(); ++i) {
      differences.Add(std::abs(a[r].of_prompt[i] - b[r].of_prompt[i]));
    }
  }
  return differences;
}

Differences OfTokens(const std::vector<FormAnswer>& a, const std::vector<FormAnswer>& b) {
  Differences differences;
  for (size_t r = 0; r < a.size(); ++r) {
    for (size_t i = 0; i < std::min(a[r].ids.size(), b.at(r).ids.size()); ++i) {
      differences.Add(std::abs(a[r].of_tokens[i] - b[r].of_tokens[i]));
      if (a[r].ids[i] != b[r].ids[i]) break;
    }
  }
  return differences;
}

}  // namespace lorad::bench
