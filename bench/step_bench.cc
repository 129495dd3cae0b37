// Where the time of a step goes: a model of a known shape with random weights, and adapters on it, through the executor
// that the daemon uses, against what reading the weights costs at the least.
//   step_bench [smollm|tinyllama] [steps] [part of a case's name]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include "adapters/apply.h"
#include "bench/step_model.h"
#include "model/base/check.h"
#include "model/ops/cpu/parallel.h"
#include "scheduler/model_executor.h"

namespace lorad::bench {
namespace {

using Clock = std::chrono::steady_clock;
double Us(Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); }

// Sums the time up to each call of the seam, and in it.
class TimedSeam final : public AdapterSeam {
 public:
  explicit TimedSeam(AdapterSeam* inner) : inner_(inner) {}
  at::Tensor FinishLinear(const SiteGroup& group, const at::Tensor& x, at::Tensor y, const at::Tensor& base_bias,
                          const RowSegments& rows) override {
    const char* const before = Before(group.parts[0].site);
    Lap(before);
    y = inner_->FinishLinear(group, x, std::move(y), base_bias, rows);
    Lap("adapters");
    return y;
  }
  RowRouting RouteFfn(int layer, const at::Tensor& x, const RowSegments& rows) override {
    return inner_->RouteFfn(layer, x, rows);
  }
  at::Tensor FinishEmbedding(const at::Tensor& ids, at::Tensor raw, const RowSegments& rows) override {
    Lap("embedding");
    return inner_->FinishEmbedding(ids, std::move(raw), rows);
  }
  const NormOverride* Norm(int layer, Site site, const RowSegments& rows) override {
    return inner_->Norm(layer, site, rows);
  }
  void Begin() { last_ = Clock::now(); }
  void End() { Lap("logits, sampling"); }
  std::map<std::string, double> TakeUs() { return std::exchange(us_, {}); }

 private:
  static const char* Before(Site site) {
    switch (site) {
      case Site::kQProj:
        return "norm, q|k|v";
      case Site::kOProj:
        return "rope, attention, o";
      case Site::kGateProj:
        return "norm, gate|up";
      case Site::kDownProj:
        return "activation, down";
      default:
        return "norm, lm_head";
    }
  }
  void Lap(const char* name) {
    const Clock::time_point now = Clock::now();
    us_[name] += Us(now - last_);
    last_ = now;
  }
  AdapterSeam* const inner_;
  Clock::time_point last_;
  std::map<std::string, double> us_;
};

struct Case {
  std::string name;
  int64_t sequences;
  int64_t tokens;   // of each in the step
  int64_t context;  // before the step
  StepAdapters* adapters = nullptr;
};

class Bench final {
 public:
  Bench(const ModelShape& shape, std::string only)
      : step_(shape), model_(&step_.model()), view_(step_.kv()), only_(std::move(only)) {}
  CausalLm& model() { return *model_; }
  PagePool* pages() { return step_.pages(); }

  void Run(const Case& c, int steps, double read_bytes_per_us) {
    if (c.name.find(only_) == std::string::npos) return;
    const SlotTable none(model_->base_shape());
    SlotSeam slots(c.adapters == nullptr ? none : c.adapters->table());
    // A step without adapters takes the executor's own seam, which is not timed: one with a term that touches nothing
    // is the same work.
    SlotTable untouched(model_->base_shape());
    untouched.Resize(1);
    SlotSeam nothing(untouched);
    TimedSeam seam(c.adapters == nullptr ? &nothing : &slots);
    ModelExecutor executor(model_, view_, &seam);
    const std::vector<int32_t> ids(static_cast<size_t>(c.tokens), 7);
    SamplingOptions greedy;
    greedy.temperature = 0;
    std::vector<ExecRow> rows(static_cast<size_t>(c.sequences));
    const int64_t blocks = (c.context + c.tokens + kKvBlockTokens - 1) / kKvBlockTokens;
    LORAD_CHECK_LE(blocks * c.sequences, StepModel::kBlocks);
    int64_t bytes =
        model_->weight_bytes() + c.sequences * c.context * model_->kv_layout().block_bytes() / kKvBlockTokens;
    for (int64_t s = 0; s < c.sequences; ++s) {
      ExecRow& row = rows[static_cast<size_t>(s)];
      row.sequence = static_cast<SequenceId>(s);
      row.first_position = c.context;
      row.token_ids = ids;
      row.prompt_ids = ids;
      for (int64_t b = 0; b < blocks; ++b) row.blocks.push_back(static_cast<int32_t>(s * blocks + b));
      const int32_t slot = c.adapters == nullptr ? 0 : static_cast<int32_t>(s % c.adapters->table().slots());
      row.terms = {{.slot = slot, .scale = 1.0f}};
      row.sample = true;
      row.sampling = &greedy;
      if (c.adapters != nullptr && s < c.adapters->table().slots()) bytes += c.adapters->bytes(static_cast<size_t>(s));
    }
    // The step of the lowest third of the times, and its parts.
    std::vector<std::pair<double, std::map<std::string, double>>> times;
    for (int i = 0; i < steps; ++i) {
      const Clock::time_point begin = Clock::now();
      seam.Begin();
      LORAD_CHECK(executor.Wait(executor.Launch(rows, /*expected_us=*/0)).ok());
      seam.End();
      times.emplace_back(Us(Clock::now() - begin), seam.TakeUs());
    }
    const auto third = times.begin() + steps / 3;
    std::nth_element(times.begin(), third, times.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const double read_us = static_cast<double>(bytes) / read_bytes_per_us;
    std::printf("%-34s %8.2f ms  %7.1f tokens/s  x %.2f of reading %lld MB\n", c.name.c_str(), third->first / 1e3,
                static_cast<double>(c.sequences * c.tokens) / third->first * 1e6, third->first / read_us,
                static_cast<long long>(bytes >> 20));
    for (const auto& [part, us] : third->second) std::printf("    %-28s %8.2f ms\n", part.c_str(), us / 1e3);
    std::fflush(stdout);
  }

 private:
  StepModel step_;
  CausalLm* const model_;
  const KvView& view_;
  const std::string only_;  // cases whose names have it
};

// Bytes per us that all threads read together, from memory.
double ReadBandwidth() {
  const std::vector<uint64_t> words((int64_t{256} << 20) / 8, 1);
  double best_us = 1e30;
  for (int i = 0; i < 8; ++i) {
    const Clock::time_point begin = Clock::now();
    cpu::ParallelFor(static_cast<int64_t>(words.size()) / 64, 1, [&](int64_t first, int64_t end) {
      uint64_t sums[64] = {};
      for (int64_t w = first; w < end; ++w)
        for (int j = 0; j < 64; ++j) sums[j] += words[static_cast<size_t>(w * 64 + j)];
      for (const uint64_t sum : sums) benchmark::DoNotOptimize(sum);
    });
    best_us = std::min(best_us, Us(Clock::now() - begin));
  }
  return static_cast<double>(words.size() * 8) / best_us;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  using namespace lorad::bench;
  using lorad::Site;
  const auto args = ReadStepBenchArgs(argc, argv, /*least_rounds=*/1);
  if (!args.has_value()) return 2;
  const auto [shape, steps] = *args;
  Bench bench(*shape, argc > 3 ? argv[3] : "");
  const std::vector<Site> attention = {Site::kQProj, Site::kKProj, Site::kVProj, Site::kOProj};
  std::vector<Site> linears = attention;
  linears.insert(linears.end(), {Site::kGateProj, Site::kUpProj, Site::kDownProj});
  StepAdapters rank8(bench.model().base_shape(), bench.pages());
  StepAdapters mixed(bench.model().base_shape(), bench.pages());
  for (int i = 0; i < 16; ++i) {
    rank8.AddLora(attention, 8);
    mixed.AddLora(linears, 8 << (i % 4));
  }
  const double bandwidth = ReadBandwidth();
  std::printf("%s, bf16, %d threads, reads %.1f GB/s\n", shape->name, lorad::cpu::ComputeThreads(), bandwidth / 1e3);
  for (const int64_t batch : {1, 4, 16}) {
    const std::string rows = "decode " + std::to_string(batch) + ", ";
    bench.Run({rows + "base", batch, 1, 256}, steps, bandwidth);
    bench.Run({rows + "rank 8 on q,k,v,o", batch, 1, 256, &rank8}, steps, bandwidth);
    bench.Run({rows + "ranks 8-64 on all linears", batch, 1, 256, &mixed}, steps, bandwidth);
  }
  for (const int64_t tokens : {32, 256}) {
    const std::string rows = "prefill " + std::to_string(tokens) + ", ";
    bench.Run({rows + "base", 1, tokens, 0}, steps / 3 + 1, bandwidth);
    bench.Run({rows + "ranks 8-64 on all linears", 1, tokens, 0, &mixed}, steps / 3 + 1, bandwidth);
  }
  return 0;
}
