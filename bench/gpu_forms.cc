// What is measured is to be right: the fast forms' answers beside our plain kernels'.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/gpu_bench.h"
#include "model/ops/open_cuda.h"

namespace lorad::bench {
namespace {

// As golden answers in bf16 (tests/model/golden_base_test.cc). Of a model of random weights that may be more than all
// its attention does: so the mean is also to be small beside what other first halves of the prompts do to the second.
constexpr double kMostDifference = 1.0, kMeanDifference = 0.12, kOfOtherBeginnings = 0.25;

constexpr float kForced = 1e4f;

// Our plain kernels alone, until it goes.
class PlainKernels final {
 public:
  PlainKernels() { LeaveOutFastForms(); }
  ~PlainKernels() { CheckFastForms(); }
  PlainKernels(const PlainKernels&) = delete;
  PlainKernels& operator=(const PlainKernels&) = delete;
};

std::string NameOf(int64_t rank) { return rank == 0 ? "" : absl::StrCat("f", rank); }

}  // namespace

std::vector<FormAnswer> GpuBench::AnswersToCompare(int32_t beginning) {
  Ask largest = {"", 0, scale_.compared_tokens};
  int64_t adapter_bytes = 0;
  std::vector<int64_t> lengths;
  std::set<int64_t> ranks;
  for (const Compared& each : scale_.compared) {
    lengths.push_back(each.prompt_tokens);
    largest.prompt_tokens = std::max(largest.prompt_tokens, each.prompt_tokens);
    if (each.rank > 0 && ranks.insert(each.rank).second) adapter_bytes += AdapterBytes(each.rank);
  }
  const auto engine = EngineFor(std::ssize(lengths), largest, adapter_bytes);
  for (const int64_t rank : ranks) Load(*engine, NameOf(rank), adapters_.Of(rank));
  const std::vector<std::vector<int32_t>> prompts = PromptsToCompare(lengths, llama_.shape().vocab, beginning);
  std::vector<std::shared_ptr<Recording>> recordings;
  for (size_t i = 0; i < prompts.size(); ++i) {
    Request request;
    request.adapter = NameOf(scale_.compared[i].rank);
    request.prompt_ids = prompts[i];
    request.sampling = SamplingToCompare(scale_.compared_tokens);
    // Its tokens are all this one, whatever computes: each is comparable.
    request.sampling.logit_bias = {{prompts[i].back(), kForced}};
    recordings.push_back(engine->Submit(std::move(request)));
  }
  std::vector<FormAnswer> answers;
  for (const auto& recording : recordings) {
    recording->WaitUntilFinished();
    const Finish& finish = *recording->sequences()[0].finish;
    if (!finish.status.ok()) Fail(finish.status.ToString());
    if (finish.reason != FinishReason::kLength) Fail("aborted: " + finish.abort_detail);
    answers.push_back(AnswerOf(*recording));
  }
  End(*engine);
  return answers;
}

void GpuBench::CompareForms() {
  if (!options_.fast_forms) return;
  std::vector<FormAnswer> ours, of_other_beginnings;
  {
    const PlainKernels plain;
    ours = AnswersToCompare(/*beginning=*/0);
    of_other_beginnings = AnswersToCompare(/*beginning=*/7);
  }
  const std::vector<FormAnswer> fast = AnswersToCompare(/*beginning=*/0);
  const double of_contexts = OfPrompts(ours, of_other_beginnings).mean();
  const double mean_limit = std::min(kMeanDifference, kOfOtherBeginnings * of_contexts);
  Print("log-probabilities, prompts that begin otherwise, mean", of_contexts);
  std::string beyond;
  for (const auto& [what, differences] : {std::pair("prompts", OfPrompts(ours, fast)),  //
                                          std::pair("tokens", OfTokens(ours, fast))}) {
    Print(absl::StrCat("  fast forms and ours, ", what, ", mean"), differences.mean());
    Print(absl::StrCat("  fast forms and ours, ", what, ", most"), differences.most);
    if (differences.mean() <= mean_limit && differences.most <= kMostDifference) continue;
    absl::StrAppend(&beyond, beyond.empty() ? "" : "; ", what, ": mean ", differences.mean(), ", most ",
                    differences.most);
  }
  if (beyond.empty()) return;
  Fail(absl::StrCat("log-probabilities by the fast forms differ from ours: ", beyond, "; limit: mean ", mean_limit,
                    ", most ", kMostDifference, "; what follows measures forms that are not right: --fast-forms=off"));
}

}  // namespace lorad::bench
