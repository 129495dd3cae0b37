// The engine, loader and pool of the daemon on a CUDA device, without gRPC: how near decode comes to the memory's
// bandwidth and prefill to the bf16 peak, what adapters cost (kept), and what their loads cost those who wait for them
// and those who do not. Bound and peak are measured in the same run. Before that, what the fast forms compute is
// compared with what our plain kernels do, on the shape at hand.
//
//   gpu_bench [llama2-7b|llama3-8b|small …] [--only=forms,decode,prefill,kept,cold,slots] [--json=FILE]
//     --graphs=off      steps are launched anew each time, not captured
//     --fast-forms=off  by our plain kernels alone, without other libraries' and tensor cores
//
// liblorad_cuda.so: LORAD_CUDA_LIBRARY, or beside the program or in ../lib. `small` is for proving the program. Exit 1:
// a part failed; 3: the device is broken, and what was still to come was not tried.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "bench/gpu_bench.h"
#include "model/ops/cuda_driver.h"
#include "model/ops/open_cuda.h"
#include "tests/device/test_device.h"

namespace lorad::bench {
namespace {

constexpr ModelShape kShapes[] = {{"llama3-8b", 4096, 32, 32, 8, 14336, 128256, false},
                                  {"llama2-7b", 4096, 32, 32, 32, 11008, 32000, false},
                                  {"small", 128, 2, 2, 1, 96, 101, false}};

bool IsPart(const std::string& name) {
  constexpr const char* kParts[] = {"forms", "decode", "prefill", "cold", "slots", "kept"};
  return std::find(std::begin(kParts), std::end(kParts), name) != std::end(kParts);
}

int Main(int argc, char** argv) {
  std::vector<const ModelShape*> shapes;
  GpuBench::Options options;
  Report report;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto* const shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                           [&](const ModelShape& each) { return argument == each.name; });
    if (shape != std::end(kShapes)) {
      shapes.push_back(shape);
    } else if (argument.starts_with("--only=")) {
      options.only = absl::StrSplit(argument.substr(7), ',');
      if (std::all_of(options.only.begin(), options.only.end(), IsPart)) continue;
      std::fprintf(stderr, "--only: %s; limit: forms, decode, prefill, kept, cold, slots\n",
                   argument.substr(7).c_str());
      return 2;
    } else if (argument == "--graphs=on" || argument == "--graphs=off") {
      options.graphs = argument.ends_with("on");
    } else if (argument == "--fast-forms=on" || argument == "--fast-forms=off") {
      options.fast_forms = argument.ends_with("on");
    } else if (argument.starts_with("--json=")) {
      if (report.WriteTo(argument.substr(7))) continue;
      std::fprintf(stderr, "--json: cannot write: %s\n", argument.substr(7).c_str());
      return 2;
    } else {
      std::fprintf(stderr,
                   "%s [llama2-7b|llama3-8b|small …] [--only=forms,decode,prefill,kept,cold,slots] [--json=FILE]\n"
                   "  [--graphs=on|off] [--fast-forms=on|off]\n",
                   argv[0]);
      return 2;
    }
  }
  if (shapes.empty()) shapes = {&kShapes[0], &kShapes[1]};
  OpenTestDevice();
  report.Note(absl::StrCat("device: ", CudaDeviceName(), options.graphs ? "" : "; steps are not captured"));
  std::vector<std::string> used;
  if (options.fast_forms) {
    for (const std::string& line : CheckFastForms(&used)) report.Note(line);
  } else {
    LeaveOutFastForms();
  }
  report.Note(absl::StrCat("uses ", used.empty() ? "our plain kernels alone" : absl::StrJoin(used, "; ")));
  bool passed = true;
  for (const ModelShape* const shape : shapes) {
    passed &= GpuBench(*shape, std::string(shape->name) == "small" ? Small() : Large(), options, &report).Run();
  }
  return passed ? 0 : 1;
}

}  // namespace
}  // namespace lorad::bench

int main(int argc, char** argv) { return lorad::bench::Main(argc, argv); }
