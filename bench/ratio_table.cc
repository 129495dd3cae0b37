#include "bench/ratio_table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>

#include <benchmark/benchmark.h>

namespace lorad::bench {
namespace {

class Collector final : public benchmark::ConsoleReporter {
 public:
  Collector() : ConsoleReporter(OO_Tabular) {}
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      const std::string& name = run.run_name.function_name;
      if (times_[name].empty()) names_.push_back(name);
      times_[name].push_back(run.GetAdjustedRealTime());
      units_[name] = benchmark::GetTimeUnitString(run.time_unit);
    }
  }
  // The time that a tenth of the repetitions stayed below; NaN for a benchmark that did not run.
  double Time(const std::string& name) {
    const auto found = times_.find(name);
    if (found == times_.end()) return std::numeric_limits<double>::quiet_NaN();
    std::vector<double>& times = found->second;
    std::sort(times.begin(), times.end());
    return times[times.size() / 10];
  }
  void PrintTimes() {
    std::sort(names_.begin(), names_.end());
    std::printf("\n%-72s %8s\n", "time of one call, lowest tenth", "value");
    for (const std::string& name : names_) {
      std::printf("%-72s %8.2f %s\n", name.c_str(), Time(name), units_[name].c_str());
    }
  }

 private:
  std::vector<std::string> names_;
  std::map<std::string, std::vector<double>> times_;
  std::map<std::string, std::string> units_;
};

}  // namespace

int RunAndPrintRatios(int argc, char** argv, const std::vector<Ratio>& ratios) {
  std::vector<std::string> words = {argv[0], "--benchmark_repetitions=41",
                                    "--benchmark_enable_random_interleaving=true"};
  words.insert(words.end(), argv + 1, argv + argc);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
  Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
  collector.PrintTimes();
  std::printf("\n%-72s %8s\n", "ratio", "value");
  bool met = true;
  for (const Ratio& ratio : ratios) {
    const double value = collector.Time(ratio.of) / collector.Time(ratio.over);
    if (std::isnan(value)) continue;
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
