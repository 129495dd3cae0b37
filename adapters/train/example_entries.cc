#include "adapters/train/example_entries.h"

#include <utility>

#include "adapters/train/random_order.h"
#include "model/base/status_macros.h"

namespace lorad {

ExampleEntries::ExampleEntries(ExampleSource examples, bool shuffle, uint64_t seed)
    : examples_(std::move(examples)), shuffle_(shuffle), seed_(seed) {}

absl::StatusOr<std::vector<Example>> ExampleEntries::At(int64_t index) const {
  const int64_t epoch = index / examples_.entries();
  int64_t entry = index % examples_.entries();
  if (shuffle_) {
    const RandomOrder order(static_cast<uint64_t>(examples_.entries()),
                            MixSeed(MixSeed(seed_, kOrderStream), static_cast<uint64_t>(epoch)));
    entry = static_cast<int64_t>(order.At(static_cast<uint64_t>(entry)));
  }
  const bool packed = !examples_.pack_starts.empty();
  const int64_t first = packed ? examples_.pack_starts[static_cast<size_t>(entry)] : entry;
  const int64_t end = packed ? examples_.pack_starts[static_cast<size_t>(entry) + 1] : entry + 1;
  std::vector<Example> read;
  for (int64_t i = first; i < end; ++i) {
    ASSIGN_OR_RETURN(Example example, examples_.get(i));
    read.push_back(std::move(example));
  }
  return read;
}

}  // namespace lorad
