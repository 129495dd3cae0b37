// A step of one base with its matrices whole (bf16), in int8, in int4 and in fp8, one after the other in each round, so
// that all have the same neighbours.
//   quantize_bench [smollm|tinyllama] [rounds]
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "adapters/apply.h"
#include "bench/step_model.h"
#include "model/base/check.h"
#include "model/ops/cpu/parallel.h"
#include "scheduler/model_executor.h"

namespace lorad::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::array<Quantization, 4> kForms = {Quantization::kNone, Quantization::kInt8, Quantization::kInt4,
                                                Quantization::kFp8};

// Milliseconds of one step of `sequences`, each with `tokens` behind `context` others.
double StepMs(StepModel& step, int64_t sequences, int64_t tokens, int64_t context) {
  const SlotTable none(step.model().base_shape());
  SlotSeam seam(none);
  ModelExecutor executor(&step.model(), step.kv(), &seam);
  const std::vector<int32_t> ids(static_cast<size_t>(tokens), 7);
  SamplingOptions greedy;
  greedy.temperature = 0;
  std::vector<ExecRow> rows(static_cast<size_t>(sequences));
  const int64_t blocks = (context + tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  LORAD_CHECK_LE(blocks * sequences, StepModel::kBlocks);
  for (int64_t s = 0; s < sequences; ++s) {
    ExecRow& row = rows[static_cast<size_t>(s)];
    row.sequence = static_cast<SequenceId>(s);
    row.first_position = context;
    row.token_ids = ids;
    row.prompt_ids = ids;
    for (int64_t b = 0; b < blocks; ++b) row.blocks.push_back(static_cast<int32_t>(s * blocks + b));
    row.sample = true;
    row.sampling = &greedy;
  }
  const Clock::time_point begin = Clock::now();
  LORAD_CHECK(executor.Wait(executor.Launch(rows, /*expected_us=*/0)).ok());
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

void Run(std::vector<std::unique_ptr<StepModel>>& models, int64_t sequences, int64_t tokens, int64_t context,
         int rounds) {
  std::array<std::vector<double>, kForms.size()> times;
  for (int i = 0; i < rounds; ++i) {
    for (size_t f = 0; f < models.size(); ++f) times[f].push_back(StepMs(*models[f], sequences, tokens, context));
  }
  std::array<double, kForms.size()> third;
  for (size_t f = 0; f < models.size(); ++f) {
    std::sort(times[f].begin(), times[f].end());
    third[f] = times[f][times[f].size() / 3];
  }
  std::printf("| %3lld x %3lld |", static_cast<long long>(sequences), static_cast<long long>(tokens));
  for (const double ms : third) std::printf(" %.2f ms |", ms);
  for (size_t f = 1; f < third.size(); ++f) std::printf(" %.2f |", third[f] / third[0]);
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  using namespace lorad::bench;
  const auto args = ReadStepBenchArgs(argc, argv, /*least_rounds=*/1);
  if (!args.has_value()) return 2;
  const auto [shape, rounds] = *args;
  std::vector<std::unique_ptr<StepModel>> models;
  std::printf("%s, bf16, %d threads; weights of none, int8, int4, fp8:", shape->name, lorad::cpu::ComputeThreads());
  for (const lorad::Quantization form : kForms) {
    models.push_back(std::make_unique<StepModel>(*shape, form));
    std::printf(" %lld MB", static_cast<long long>(models.back()->model().weight_bytes() >> 20));
  }
  std::printf(
      "\n| sequences x tokens | none | int8 | int4 | fp8 | int8 / none | int4 / none | fp8 / none |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- |\n");
  for (const int64_t sequences : {1, 4, 8, 16, 32}) Run(models, sequences, /*tokens=*/1, /*context=*/64, rounds);
  Run(models, /*sequences=*/1, /*tokens=*/256, /*context=*/0, std::max(1, rounds / 5));
  return 0;
}
