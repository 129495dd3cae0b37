#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lorad {

// Below it the draw is greedy: the division of logits by it says nothing more, and must not overflow.
inline constexpr float kLeastTemperature = 1e-5f;

// How the next token is chosen; every field resolved (the model's generation defaults applied). Torch-free.
struct SamplingOptions {
  int64_t max_tokens = 16;
  int64_t min_tokens = 0;
  float temperature = 1.0f;  // below kLeastTemperature = greedy
  float top_p = 1.0f;
  int64_t top_k = 0;  // 0 = off
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;  // always set: drawn by the front end when the caller gave none
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<std::string> stop;        // matched on text, by the front end
  std::vector<int32_t> stop_token_ids;  // with the model's eos unless ignore_eos
  bool ignore_eos = false;
  int32_t logprobs = -1;         // alternatives for each generated token; -1 = none wanted
  int32_t prompt_logprobs = -1;  // the same for the prompt
};

struct TopLogprob {
  int32_t token_id;
  float logprob;
};

// A token with its log-probability under the model's own distribution (before penalties and temperature).
struct TokenLogprob {
  int32_t token_id = -1;
  float logprob = 0.0f;
  std::vector<TopLogprob> top;  // best first
};

}  // namespace lorad
