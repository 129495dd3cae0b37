#include "adapters/expert_load.h"

#include <algorithm>
#include <new>
#include <numeric>
#include <utility>

#include "adapters/image.h"
#include "model/memory/pool_memory.h"

namespace lorad {
namespace {

// [count] counters at 0.
std::shared_ptr<std::atomic<int64_t>[]> Zeroed(int64_t count, std::shared_ptr<void> memory) {
  if (memory == nullptr) {
    return std::shared_ptr<std::atomic<int64_t>[]>(new std::atomic<int64_t>[static_cast<size_t>(count)]());
  }
  auto* const counters = static_cast<std::atomic<int64_t>*>(memory.get());
  for (int64_t i = 0; i < count; ++i) new (counters + i) std::atomic<int64_t>(0);
  return std::shared_ptr<std::atomic<int64_t>[]>(std::move(memory), counters);
}

}  // namespace

ExpertLoad::ExpertLoad(int64_t layers, int64_t experts, std::shared_ptr<void> memory)
    : layers_(layers), experts_(experts), rows_(Zeroed(layers * experts, std::move(memory))) {}

int64_t ExpertLoad::BytesFor(int64_t layers, int64_t experts) {
  return layers * experts * static_cast<int64_t>(sizeof(std::atomic<int64_t>));
}

std::vector<int64_t> ExpertLoad::Rows(int64_t layer) const {
  std::vector<int64_t> rows(static_cast<size_t>(experts_));
  const std::atomic<int64_t>* from = rows_.get() + layer * experts_;
  for (int64_t& value : rows) value = (from++)->load(std::memory_order_relaxed);
  return rows;
}

std::shared_ptr<ExpertLoad> ExpertLoadFor(const AdapterImage& image, PoolMemory& pages) {
  int64_t layers = 0, experts = 0;
  for (const ImageSlot& slot : image.slots) {
    if (!slot.router.present()) continue;
    layers = std::max<int64_t>(layers, slot.layer + 1);
    experts = std::max<int64_t>(experts, slot.experts);
  }
  if (layers == 0) return nullptr;
  std::shared_ptr<void> memory = pages.SharedWithHost(ExpertLoad::BytesFor(layers, experts));
  return memory == nullptr ? nullptr : std::make_shared<ExpertLoad>(layers, experts, std::move(memory));
}

LoadBalance BalanceOf(const ExpertLoad& load) {
  LoadBalance balance;
  int64_t layers = 0;
  for (int64_t layer = 0; layer < load.layers(); ++layer) {
    const std::vector<int64_t> rows = load.Rows(layer);
    const int64_t sum = std::accumulate(rows.begin(), rows.end(), int64_t{0});
    if (sum == 0) continue;
    ++layers;
    balance.rows += sum;
    const auto largest = static_cast<double>(*std::max_element(rows.begin(), rows.end()));
    balance.imbalance += largest * static_cast<double>(rows.size()) / static_cast<double>(sum);
  }
  if (layers > 0) balance.imbalance /= static_cast<double>(layers);
  return balance;
}

void ExpertTally::AddTo(std::atomic<int64_t>* counters) const {
  if (counters == nullptr) return;
  for (size_t expert = 0; expert < rows_.size(); ++expert) {
    if (rows_[expert] > 0) counters[expert].fetch_add(rows_[expert], std::memory_order_relaxed);
  }
}

}  // namespace lorad
