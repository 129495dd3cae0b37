// Feeds changed inputs to everything that reads bytes from outside. Fails only by crashing or hanging: run it under
// sanitizers.
//
//   fuzz_test [--runs=N] [--seed=S] [--target=NAME]   N runs of the cheapest targets, fewer of dearer ones
//   fuzz_test --target=NAME --replay=FILE             one input
//   fuzz_test --list                                  the targets' names
//
// First it runs what lies in tests/fuzz/corpus/<target>. When it dies, it leaves the input and says where.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/fuzz/mutator.h"
#include "tests/fuzz/targets.h"
#include "tests/support/source_dir.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));
// An input is at most half a megabyte: what wants so much for it believed a number that it should have checked.
extern "C" const char* __asan_default_options() { return "max_allocation_size_mb=256:allocator_may_return_null=0"; }

namespace lorad {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kHangSeconds = 600;  // thousands of times what an input takes

struct Flags {
  size_t runs = 20'000;
  uint64_t seed = 1;
  std::string target;
  std::string replay;
  bool list = false;
};

// What runs now, for the one who is told of its death.
struct Running {
  std::string target;
  std::string input;
} running;

void SaveInput() {
  const std::string path = fs::temp_directory_path() / ("lorad_fuzz_" + running.target + ".input");
  std::ofstream(path, std::ios::binary | std::ios::trunc) << running.input;
  std::fprintf(stderr, "fuzz_test: died in target %s; again: fuzz_test --target=%s --replay=%s\n",
               running.target.c_str(), running.target.c_str(), path.c_str());
}

void Run(const FuzzTarget& target, std::string input) {
  running = {target.name, std::move(input)};
  alarm(kHangSeconds);
  target.run(running.input);
}

std::string Contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void Fuzz(const FuzzTarget& target, const Flags& flags) {
  const fs::path corpus = fs::path(SourceDir()) / "tests/fuzz/corpus" / target.name;
  size_t replayed = 0;
  if (fs::exists(corpus)) {
    for (const fs::directory_entry& entry : fs::directory_iterator(corpus)) {
      Run(target, Contents(entry.path()));
      ++replayed;
    }
  }
  for (const std::string& seed : target.seeds) Run(target, seed);
  Mutator mutator(flags.seed, target.words);
  const size_t runs = flags.runs / static_cast<size_t>(target.cost);
  for (size_t i = 0; i < runs; ++i) {
    const std::string& other = target.seeds[mutator.Below(target.seeds.size())];
    std::string input = mutator.Mutate(target.seeds[mutator.Below(target.seeds.size())], other);
    if (target.repair && mutator.Below(2) == 0) target.repair(&input);
    Run(target, std::move(input));
  }
  std::printf("[fuzz] %-18s corpus: %zu, seeds: %zu, runs: %zu\n", target.name.c_str(), replayed, target.seeds.size(),
              runs);
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  Flags flags;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    const std::string value(equals == std::string_view::npos ? "" : argument.substr(equals + 1));
    if (name == "--runs") {
      flags.runs = std::stoull(value);
    } else if (name == "--seed") {
      flags.seed = std::stoull(value);
    } else if (name == "--target") {
      flags.target = value;
    } else if (name == "--replay") {
      flags.replay = value;
    } else if (name == "--list") {
      flags.list = true;
    } else {
      std::fprintf(stderr, "fuzz_test: unknown argument: %s\n", argv[i]);
      return 2;
    }
  }
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(SaveInput);
  for (const int fatal : {SIGABRT, SIGALRM}) {
    std::signal(fatal, [](int number) {
      SaveInput();
      std::_Exit(128 + number);
    });
  }
  const fs::path scratch = fs::temp_directory_path() / ("lorad_fuzz_" + std::to_string(getpid()));
  fs::create_directories(scratch);
  bool found = false;
  const FuzzPlaces places{SourceDir() + "/tests/golden", scratch};
  std::vector<FuzzTarget> targets;
  for (const auto list : {WeightTargets, ModelFolderTargets, RequestTargets}) {
    for (FuzzTarget& target : list(places)) targets.push_back(std::move(target));
  }
  for (const FuzzTarget& target : targets) {
    if (!flags.target.empty() && target.name != flags.target) continue;
    found = true;
    if (flags.list) {
      std::printf("%s\n", target.name.c_str());
    } else if (flags.replay.empty()) {
      Fuzz(target, flags);
    } else {
      Run(target, Contents(flags.replay));
    }
  }
  fs::remove_all(scratch);
  if (!found) std::fprintf(stderr, "fuzz_test: unknown target: %s\n", flags.target.c_str());
  return found ? 0 : 2;
}

}  // namespace
}  // namespace lorad

int main(int argc, char** argv) { return lorad::Main(argc, argv); }
