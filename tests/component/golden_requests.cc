#include "tests/component/golden_requests.h"

#include <filesystem>
#include <string_view>
#include <utility>

#include "tests/component/alone.h"
#include "tests/component/golden_base.h"

namespace lorad {
namespace {

constexpr std::string_view kMoePeft = "moe/";

std::vector<double> Values(const std::vector<TokenLogprob>& logprobs, size_t from) {
  std::vector<double> values;
  for (size_t i = from; i < logprobs.size(); ++i) values.push_back(logprobs[i].logprob);
  return values;
}

}  // namespace

std::vector<GoldenCase> AllGoldenCases(const std::string& base) {
  std::vector<GoldenCase> cases = ReadGoldenCases(GoldenDir(base) + "/cases.json");
  for (GoldenCase& golden : ReadGoldenCompositions(GoldenDir(base))) cases.push_back(std::move(golden));
  const std::string of_moe_peft = GoldenDir("moe_peft/" + base) + "/cases.json";
  if (!std::filesystem::exists(of_moe_peft)) return cases;
  for (GoldenCase& golden : ReadGoldenCases(of_moe_peft)) {
    golden.adapter.insert(0, kMoePeft);
    cases.push_back(std::move(golden));
  }
  return cases;
}

std::string GoldenAdapterDir(const std::string& base, const std::string& adapter) {
  if (!adapter.starts_with(kMoePeft)) return AdapterDir(base, adapter);
  return AdapterDir("moe_peft/" + base, adapter.substr(kMoePeft.size()));
}

Request GoldenRequestOf(const GoldenCase& golden) {
  Request request;
  request.adapter = golden.adapter;
  for (const auto& [name, scale] : golden.composition) request.composition.push_back({.name = name, .scale = scale});
  if (!golden.composition.empty()) request.adapter = golden.composition.front().first;
  request.prompt_ids = golden.prompt;
  request.sampling.max_tokens = golden.max_tokens;
  request.sampling.temperature = 0.0f;
  request.sampling.logprobs = 0;
  request.sampling.prompt_logprobs = 0;
  return request;
}

GoldenAnswer GoldenAnswerOf(const Recording& recording) {
  const Answer answer = AnswerOf(recording, 0);
  return {.tokens = answer.ids(),
          .logprobs = Values(answer.tokens, 0),
          .prompt_logprobs = Values(answer.prompt_logprobs, 1)};  // the first token of a prompt has none
}

}  // namespace lorad
