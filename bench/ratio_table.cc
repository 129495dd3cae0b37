#include "bench/ratio_table.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include <benchmark/benchmark.h>

namespace lorad::bench {
namespace {

class Collector final : public benchmark::ConsoleReporter {
 public:
  Collector() : ConsoleReporter(OO_Tabular) {}
  void ReportRuns(const std::vector<Run>& runs) override {
    std::vector<Run> medians;
    for (const Run& run : runs) {
      if (run.run_type == Run::RT_Iteration) times_[run.run_name.function_name].push_back(run.GetAdjustedRealTime());
      if (run.run_type == Run::RT_Aggregate && run.aggregate_name == "median") medians.push_back(run);
    }
    ConsoleReporter::ReportRuns(medians);
  }
  // NaN for a benchmark that did not run.
  double Median(const std::string& name) {
    const auto found = times_.find(name);
    if (found == times_.end()) return 0.0 / 0.0;
    std::vector<double>& times = found->second;
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
  }

 private:
  std::map<std::string, std::vector<double>> times_;
};

}  // namespace

int RunAndPrintRatios(int argc, char** argv, const std::vector<Ratio>& ratios) {
  std::vector<std::string> words = {argv[0], "--benchmark_repetitions=9", "--benchmark_min_time=0.02",
                                    "--benchmark_enable_random_interleaving=true"};
  words.insert(words.end(), argv + 1, argv + argc);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
  Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
  std::printf("\n%-72s %8s\n", "ratio of medians", "value");
  bool met = true;
  for (const Ratio& ratio : ratios) {
    const double value = collector.Median(ratio.of) / collector.Median(ratio.over);
    if (!(value == value)) continue;
    std::printf("%-72s %8.2f", ratio.what.c_str(), value);
    if (ratio.limit > 0) {
      std::printf("  limit %.2f: %s", ratio.limit, value <= ratio.limit ? "met" : "MISSED");
      met = met && value <= ratio.limit;
    }
    std::printf("\n");
  }
  return met ? 0 : 2;
}

}  // namespace lorad::bench
