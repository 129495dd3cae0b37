// What many adapters in a batch cost: 32 slots of one row against one slot of 32 rows, at rank 8. "warm" repeats the
// same slots, "cold" walks through a pool larger than the caches. The one-slot case is also set against LibTorch's two
// matrix products, so that the ratio is not won by a slow denominator, and both cases are timed behind the base's
// matmul, as a forward runs them. 32 slots read 32 times the weights: at width 2048 in f32 that is 4 MiB, where the
// bandwidth of L3 is the limit.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <benchmark/benchmark.h>

#include "adapters/ops/segmented_gemm.h"
#include "bench/ratio_table.h"
#include "model/base/check.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/linear.h"

namespace lorad::bench {
namespace {

constexpr int64_t kRows = 32;
constexpr int64_t kRank = 8;

struct Problem {
  int64_t width;
  at::ScalarType dtype;
  at::Tensor x, y, a, b_t;  // a, b_t [slots, rank, width]
  LinearWeight base;        // [width, width]
  std::vector<SlotWeights> slots;

  Problem(int64_t width, at::ScalarType dtype, int64_t pool_bytes) : width(width), dtype(dtype) {
    const auto options = at::TensorOptions().dtype(dtype);
    x = at::randn({kRows, width}).to(options);
    y = at::randn({kRows, width}).to(options);
    base = LinearWeight::Prepare(at::randn({width, width}).mul_(0.01).to(options));
    const int64_t slot_bytes = 2 * kRank * width * x.element_size();
    const int64_t count = std::max<int64_t>(kRows, pool_bytes / slot_bytes / kRows * kRows);
    a = at::randn({count, kRank, width}).mul_(0.01).to(options);
    b_t = at::randn({count, kRank, width}).mul_(0.01).to(options);
    for (int64_t s = 0; s < count; ++s) {
      const int64_t offset = s * kRank * width * x.element_size();
      slots.push_back({static_cast<const std::byte*>(a.const_data_ptr()) + offset,
                       static_cast<const std::byte*>(b_t.const_data_ptr()) + offset, kRank, 1.0f});
    }
  }
};

RowSegments Segments(int64_t first_slot, int64_t slots) {
  RowSegments rows;
  for (int64_t s = 0; s < slots; ++s) {
    rows.starts.push_back(static_cast<int32_t>((s + 1) * kRows / slots));
    rows.terms.push_back({static_cast<int32_t>(first_slot + s), 1.0f});
    rows.term_starts.push_back(static_cast<int32_t>(s + 1));
  }
  return rows;
}

void Run(benchmark::State& state, Problem& p, int64_t slots, bool with_base = false) {
  const int64_t count = static_cast<int64_t>(p.slots.size());
  std::vector<RowSegments> sets;
  for (int64_t first = 0; first + slots <= count; first += slots) sets.push_back(Segments(first, slots));
  const SegmentedGemmPart part = {p.slots.data(), 0, p.width};
  const auto apply = [&](size_t set) {
    LORAD_CHECK(SegmentedGemm({p.x, p.y, absl::MakeConstSpan(&part, 1), static_cast<int32_t>(count), sets[set]}).ok());
  };
  apply(0);  // other cases have run since: what repeats one set begins with it in cache
  size_t next = 1 % sets.size();
  for (auto _ : state) {
    if (with_base) LORAD_CHECK(Linear({p.x, p.base, p.y}).ok());
    apply(next);
    next = (next + 1) % sets.size();
  }
  state.counters["GB/s"] = benchmark::Counter(
      static_cast<double>(state.iterations() * slots * 2 * kRank * p.width * p.x.element_size()) * 1e-9,
      benchmark::Counter::kIsRate);
}

// One slot through LibTorch.
void RunTorch(benchmark::State& state, Problem& p) {
  const at::Tensor a = p.a[0].t(), b = p.b_t[0];
  for (auto _ : state) p.y.addmm_(p.x.mm(a), b);
}

// One slot a row through LibTorch: what a loop of library calls costs.
void RunTorchLoop(benchmark::State& state, Problem& p) {
  for (auto _ : state) {
    for (int64_t r = 0; r < kRows; ++r) {
      at::Tensor y = p.y.narrow(0, r, 1);
      y.addmm_(p.x.narrow(0, r, 1).mm(p.a[r].t()), p.b_t[r]);
    }
  }
}

void RunBaseOnly(benchmark::State& state, Problem& p) {
  RowSegments rows;
  rows.starts = {0, static_cast<int32_t>(kRows)};
  rows.term_starts = {0, 0};
  const SegmentedGemmPart part = {p.slots.data(), 0, p.width};
  for (auto _ : state) {
    LORAD_CHECK(SegmentedGemm({p.x, p.y, absl::MakeConstSpan(&part, 1), 1, rows}).ok());
  }
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  using namespace lorad::bench;
  at::set_num_threads(2);
  lorad::cpu::SetComputeThreads(2);
  const lorad::cpu::ComputeTeam::KeepAwake awake = lorad::cpu::KeepTeamAwake();  // as in a forward
  std::vector<Ratio> ratios;
  std::vector<std::unique_ptr<Problem>> problems;
  for (const int64_t width : {576, 2048}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      Problem* warm = problems.emplace_back(std::make_unique<Problem>(width, dtype, 0)).get();
      Problem* cold = problems.emplace_back(std::make_unique<Problem>(width, dtype, int64_t{96} << 20)).get();
      const std::string on = std::string(dtype == at::kFloat ? "f32/" : "bf16/") + std::to_string(width) + "/";
      const auto add = [&](const std::string& name, auto fn) {
        benchmark::RegisterBenchmark((on + name).c_str(), fn)
            ->Unit(benchmark::kMicrosecond)
            ->UseRealTime()
            ->Iterations(20);
      };
      add("1x32 warm", [=](benchmark::State& s) { Run(s, *warm, 1); });
      add("32x1 warm", [=](benchmark::State& s) { Run(s, *warm, 32); });
      add("1x32 cold", [=](benchmark::State& s) { Run(s, *cold, 1); });
      add("32x1 cold", [=](benchmark::State& s) { Run(s, *cold, 32); });
      add("1x32 with base", [=](benchmark::State& s) { Run(s, *cold, 1, true); });
      add("32x1 with base", [=](benchmark::State& s) { Run(s, *cold, 32, true); });
      add("1x32 torch", [=](benchmark::State& s) { RunTorch(s, *warm); });
      add("32x1 torch loop", [=](benchmark::State& s) { RunTorchLoop(s, *warm); });
      add("base only", [=](benchmark::State& s) { RunBaseOnly(s, *warm); });
      ratios.push_back({on + " 32 slots of 1 row / 1 slot of 32 rows, warm", on + "32x1 warm", on + "1x32 warm", 1.5});
      ratios.push_back({on + " the same, weights from memory", on + "32x1 cold", on + "1x32 cold"});
      ratios.push_back({on + " the same, base matmul included", on + "32x1 with base", on + "1x32 with base", 1.5});
      ratios.push_back(
          {on + " 32 slots of 1 row, warm / LibTorch's two products for 1 slot", on + "32x1 warm", on + "1x32 torch"});
      ratios.push_back({on + " 1 slot of 32 rows / LibTorch's two products", on + "1x32 warm", on + "1x32 torch", 1.0});
      ratios.push_back(
          {on + " 32 slots of 1 row / a loop of LibTorch calls", on + "32x1 warm", on + "32x1 torch loop"});
      ratios.push_back({on + " 32 base-only rows / 1 slot of 32 rows", on + "base only", on + "1x32 warm"});
    }
  }
  return RunAndPrintRatios(argc, argv, ratios);
}
