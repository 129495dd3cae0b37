#pragma once

#include <string>
#include <vector>

namespace lorad::bench {

// One line of the table: the time of `of` over the time of `over`, both names of benchmarks.
struct Ratio {
  std::string what;
  std::string of;
  std::string over;
  double limit = 0;  // 0 = none; else the line says whether it is met
};

// Runs every registered benchmark, repetitions interleaved so that noise of the machine meets all alike, and prints the
// time that a tenth of the repetitions stayed below, then the ratios of those. Returns main's result: 2 if a limit is
// missed.
int RunAndPrintRatios(int argc, char** argv, const std::vector<Ratio>& ratios);

}  // namespace lorad::bench
