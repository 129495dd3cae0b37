#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "model/adapter_seam.h"
#include "model/causal_lm.h"
#include "model/row_segments.h"

namespace lorad {

// One request of tests/golden/<base>/cases.json with transformers' and peft's answer.
struct GoldenCase {
  std::string name;
  std::string adapter = "";                                     // "" = the base, or a composition
  std::vector<std::pair<std::string, float>> composition = {};  // adapters and scales, in order
  std::string expect = "";                                      // "later": may be refused for now
  std::vector<int32_t> prompt;
  int64_t max_tokens = 0;
  std::vector<int32_t> tokens = {};          // [max_tokens]
  std::vector<double> logprobs = {};         // [max_tokens]
  std::vector<double> prompt_logprobs = {};  // [prompt - 1]
};

std::vector<GoldenCase> ReadGoldenCases(const std::string& path);

// Those of compositions.json beside it, if there is one.
std::vector<GoldenCase> ReadGoldenCompositions(const std::string& base_dir);

// The adapters that a case runs on, in order, with the scales that the request puts on them.
std::vector<std::pair<std::string, float>> AdaptersOf(const GoldenCase& golden);

// The folders of `golden_dir` that have cases: every base there is.
std::vector<std::string> GoldenBases(const std::string& golden_dir);

struct GoldenAnswer {
  std::vector<int32_t> tokens;
  std::vector<double> logprobs;
  std::vector<double> prompt_logprobs;  // empty unless every row's logits were asked for
};

// How the requests share steps.
struct GoldenSchedule {
  int64_t chunk_tokens = 0;      // most prompt tokens of a request in one step; 0 = the whole prompt
  int64_t join_every_steps = 0;  // request i joins at step i * this; negative: one request after the other
  bool every_row = true;         // logits of every row, else of the last row of each request alone
};

// The terms that a case's rows use; none for the base.
using TermsOf = std::function<std::vector<SlotTerm>(const GoldenCase&)>;

// What of its adapter's a case's rows see: from which position on (aLoRA), and which vocabulary, 0 = the base's.
struct GoldenScope {
  int64_t active_from = 0;
  int64_t vocab_size = 0;
};
using ScopeOf = std::function<GoldenScope(const GoldenCase&)>;

// Runs the cases greedily through Forward with a paged cache of its own, whose blocks lie scattered in memory that is
// not a number until it is written. Answers come in the order of `cases`.
absl::StatusOr<std::vector<GoldenAnswer>> RunGolden(CausalLm& model, AdapterSeam& seam,
                                                    const std::vector<GoldenCase>& cases, const TermsOf& terms_of,
                                                    const GoldenSchedule& schedule, const ScopeOf& scope_of = nullptr);

// Equal tokens, log-probabilities within `tolerance`; reports by gtest.
void ExpectGolden(const GoldenCase& expected, const GoldenAnswer& answer, double tolerance);

}  // namespace lorad
