#include "adapters/train/example_sets.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adapters/train/example_store.h"
#include "adapters/train/random_order.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr uint64_t kSplitStream = 3;  // of the job's seed; the trainer has the others

using Store = std::shared_ptr<const ExampleStore>;
using Places = std::function<int64_t(int64_t index)>;  // a set's example -> the store's

ExampleSource SourceOf(const Store& store, int64_t count, const Places& place) {
  return {.count = count,
          .get = [store, place](int64_t index) { return store->Get(place(index)); },
          .tokens = [store, place](int64_t index) { return store->Tokens(place(index)); }};
}

// One entry after the other is filled with what comes next, as long as it fits.
absl::StatusOr<std::vector<int64_t>> PackStarts(const ExampleStore& store, int64_t count, const Places& place,
                                                int64_t pack_tokens) {
  std::vector<int64_t> starts = {0};
  int64_t filled = 0;
  for (int64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const int64_t tokens, store.Tokens(place(i)));
    if (filled > 0 && filled + tokens > pack_tokens) {
      starts.push_back(i);
      filled = 0;
    }
    filled += tokens;
  }
  starts.push_back(count);
  return starts;
}

}  // namespace

absl::StatusOr<LargestEntries> LargestEntriesOf(const ExampleSource& source, int64_t count) {
  LargestEntries largest;
  std::vector<int64_t> sums;
  for (int64_t entry = 0; entry < source.entries(); ++entry) {
    const bool packed = !source.pack_starts.empty();
    const auto at = static_cast<size_t>(entry);
    int64_t sum = 0;
    for (int64_t i = packed ? source.pack_starts[at] : entry; i < (packed ? source.pack_starts[at + 1] : entry + 1);
         ++i) {
      ASSIGN_OR_RETURN(const int64_t tokens, source.tokens(i));
      sum += tokens;
      largest.longest_tokens = std::max(largest.longest_tokens, tokens);
    }
    sums.push_back(sum);
  }
  std::sort(sums.begin(), sums.end(), std::greater<>());
  const auto entries = std::max<int64_t>(1, std::ssize(sums));
  const int64_t most_times = (count + entries - 1) / entries + 1;
  for (const int64_t sum : sums) {
    const int64_t times = std::min(count, most_times);
    largest.tokens += times * sum;
    count -= times;
  }
  return largest;
}

absl::StatusOr<ExampleSets> OpenExampleSets(const std::string& prefix, const ExampleSetOptions& options) {
  ASSIGN_OR_RETURN(const Store store, ExampleStore::Open(prefix));
  const int64_t count = store->count();
  int64_t kept = std::llround(options.eval_fraction * static_cast<double>(count));
  if (options.eval_fraction > 0) kept = std::max<int64_t>(1, kept);
  const int64_t trained = count - kept;
  if (trained < 1) {
    return absl::InvalidArgumentError(absl::StrCat("dataset.eval_fraction: kept from training: ", kept,
                                                   "; limit: ", count - 1, ", one is to train on"));
  }
  const RandomOrder order(static_cast<uint64_t>(count), MixSeed(options.seed, kSplitStream));
  const bool drawn = options.shuffle && kept > 0;
  const auto place = [order, drawn](int64_t index) {
    return drawn ? static_cast<int64_t>(order.At(static_cast<uint64_t>(index))) : index;
  };
  ExampleSets sets;
  sets.train = SourceOf(store, trained, place);
  if (options.pack_tokens > 0) {
    ASSIGN_OR_RETURN(sets.train.pack_starts, PackStarts(*store, trained, place, options.pack_tokens));
  }
  if (kept > 0) {
    sets.eval = SourceOf(store, kept, [place, trained](int64_t index) { return place(trained + index); });
  } else if (const auto eval = ExampleStore::Open(absl::StrCat(prefix, "-eval")); eval.ok()) {
    sets.eval = SourceOf(*eval, (*eval)->count(), [](int64_t index) { return index; });
  } else if (!absl::IsNotFound(eval.status())) {
    return eval.status();
  }
  return sets;
}

}  // namespace lorad
