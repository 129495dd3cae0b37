#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"

namespace lorad {

struct AdapterImage;
class PoolMemory;

// How many rows a routed adapter sent to each of its experts, by layer, since it was loaded: of MixLoRA once a layer,
// of LoRAMoE and MOLA once for each projection that has a router. Rows that are computed again count again.
//
// Threads  counters may be raised and read from any, also while a step runs: each is right, together they may be of
//          two moments.
class ExpertLoad final {
 public:
  // In `memory`, which whoever routes can write to; null: the host's.
  ExpertLoad(int64_t layers, int64_t experts, std::shared_ptr<void> memory = nullptr);
  static int64_t BytesFor(int64_t layers, int64_t experts);

  int64_t layers() const { return layers_; }
  int64_t experts() const { return experts_; }
  // [experts] of a layer, to be raised by what routes.
  std::atomic<int64_t>* Counters(int64_t layer) { return rows_.get() + layer * experts_; }
  std::vector<int64_t> Rows(int64_t layer) const;

 private:
  const int64_t layers_;
  const int64_t experts_;
  const std::shared_ptr<std::atomic<int64_t>[]> rows_;  // [layers, experts]
};

// Where the adapter's routers count, in memory that both sides of `pages` write. nullptr: it has no router, or there is
// no such memory left, and nothing is counted.
std::shared_ptr<ExpertLoad> ExpertLoadFor(const AdapterImage& image, PoolMemory& pages);

// The largest of the layers' rows of an expert, over their mean: 1 is an even load, `experts` one expert for all. The
// mean of the layers; 0: no row yet.
struct LoadBalance {
  int64_t rows = 0;  // sent to experts, in all layers
  double imbalance = 0.0;
};
LoadBalance BalanceOf(const ExpertLoad& load);

// What one thread counts of one router, and then adds at once.
class ExpertTally final {
 public:
  explicit ExpertTally(int64_t experts) : rows_(static_cast<size_t>(experts)) {}
  void Count(absl::Span<const int32_t> chosen) {  // -1: none
    for (const int32_t expert : chosen) {
      if (expert >= 0) ++rows_[static_cast<size_t>(expert)];
    }
  }
  void AddTo(std::atomic<int64_t>* counters) const;  // nullptr: nobody wants to know

 private:
  std::vector<int64_t> rows_;
};

}  // namespace lorad
