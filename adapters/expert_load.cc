#include "adapters/expert_load.h"

#include <algorithm>
#include <numeric>

#include "adapters/image.h"

namespace lorad {

ExpertLoad::ExpertLoad(int64_t layers, int64_t experts)
    : layers_(layers),
      experts_(experts),
      rows_(std::make_unique<std::atomic<int64_t>[]>(static_cast<size_t>(layers * experts))) {}

std::vector<int64_t> ExpertLoad::Rows(int64_t layer) const {
  std::vector<int64_t> rows(static_cast<size_t>(experts_));
  const std::atomic<int64_t>* from = rows_.get() + layer * experts_;
  for (int64_t& value : rows) value = (from++)->load(std::memory_order_relaxed);
  return rows;
}

std::shared_ptr<ExpertLoad> ExpertLoadFor(const AdapterImage& image) {
  int64_t layers = 0, experts = 0;
  for (const ImageSlot& slot : image.slots) {
    if (!slot.router.present()) continue;
    layers = std::max<int64_t>(layers, slot.layer + 1);
    experts = std::max<int64_t>(experts, slot.experts);
  }
  return layers == 0 ? nullptr : std::make_shared<ExpertLoad>(layers, experts);
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
