#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "adapters/train/example.h"

namespace lorad {

struct ExampleSetOptions {
  double eval_fraction = 0.0;  // of the examples, kept from training; 0: none, or those of a store of their own
  int64_t pack_tokens = 0;     // fill entries up to so many tokens; 0: an example each
  bool shuffle = true;         // what is kept from training is drawn; else it is the end of the file
  uint64_t seed = 0;
};

struct ExampleSets {
  ExampleSource train;
  ExampleSource eval;  // none: count 0
};

// What was taken in under `prefix` (adapters/train/example_store.h), and under `prefix`-eval if that is there, as a job
// uses it; the same options give the same sets. Errors: the stores'; InvalidArgument when nothing is left to train on.
absl::StatusOr<ExampleSets> OpenExampleSets(const std::string& prefix, const ExampleSetOptions& options);

// What so many entries in a row, as a trainer takes them, can have at most, and the longest example of the source.
// Where an epoch ends among them, an entry comes once more.
struct LargestEntries {
  int64_t tokens = 0;
  int64_t longest_tokens = 0;
};
absl::StatusOr<LargestEntries> LargestEntriesOf(const ExampleSource& source, int64_t count);

}  // namespace lorad
