// What it costs to bring the threads together: regions of a few microseconds on LibTorch's OpenMP threads and on our
// team, alone and beside a program that keeps one core busy. OMP_WAIT_POLICY decides how OpenMP's threads wait.
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>

#include "bench/ratio_table.h"
#include "model/ops/cpu/parallel.h"

namespace lorad::bench {
namespace {

constexpr int64_t kItems = 8;

// About `us` of arithmetic an item.
void Compute(int64_t begin, int64_t end, int64_t us) {
  uint64_t state = static_cast<uint64_t>(begin) + 1;
  for (int64_t i = 0; i < (end - begin) * us * 600; ++i) state = state * 6364136223846793005u + 1442695040888963407u;
  benchmark::DoNotOptimize(state);
}

class BusyCore final {
 public:
  explicit BusyCore(bool busy) {
    if (busy) {
      thread_ = std::thread([this] {
        while (!stop_.load(std::memory_order_relaxed)) {
        }
      });
    }
  }
  ~BusyCore() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

void RunOpenMp(benchmark::State& state, int64_t us, bool busy) {
  const BusyCore core(busy);
  for (auto _ : state) {
    at::parallel_for(0, kItems, 1, [&](int64_t begin, int64_t end) { Compute(begin, end, us); });
  }
}

void RunTeam(benchmark::State& state, int64_t us, bool busy) {
  const BusyCore core(busy);
  const cpu::ComputeTeam::KeepAwake awake = cpu::KeepTeamAwake();
  for (auto _ : state) cpu::ParallelFor(kItems, 1, [&](int64_t begin, int64_t end) { Compute(begin, end, us); });
}

void RunAlone(benchmark::State& state, int64_t us) {
  for (auto _ : state) Compute(0, kItems, us);
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) {
  using namespace lorad::bench;
  at::set_num_threads(2);
  lorad::cpu::SetComputeThreads(2);
  std::vector<Ratio> ratios;
  const auto add = [&](const std::string& name, auto fn) {
    benchmark::RegisterBenchmark(name.c_str(), fn)->Unit(benchmark::kMicrosecond)->UseRealTime()->Iterations(200);
  };
  for (const int64_t us : {0, 5, 50}) {
    const std::string items = std::to_string(kItems) + " items of " + std::to_string(us) + " us, ";
    add(items + "one thread", [=](benchmark::State& s) { RunAlone(s, us); });
    for (const bool busy : {false, true}) {
      const std::string where = items + (busy ? "beside a busy loop, " : "");
      add(where + "OpenMP", [=](benchmark::State& s) { RunOpenMp(s, us, busy); });
      add(where + "team", [=](benchmark::State& s) { RunTeam(s, us, busy); });
      ratios.push_back({where + "team / OpenMP", where + "team", where + "OpenMP"});
      ratios.push_back({where + "team / one thread", where + "team", items + "one thread"});
    }
  }
  return RunAndPrintRatios(argc, argv, ratios);
}
