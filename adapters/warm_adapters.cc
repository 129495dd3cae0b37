#include "adapters/warm_adapters.h"

#include <utility>

#include "model/base/check.h"
#include "model/base/round_up.h"

namespace lorad {
namespace {

constexpr int64_t kSystemPageBytes = 4096;
// Each is a mapping of its own, of which Linux gives a process 65530.
constexpr int64_t kMostAdapters = 16'384;

}  // namespace

std::shared_ptr<PackedAdapter> WarmAdapters::Make(AdapterId id, const PackedLayout& layout) {
  LORAD_CHECK(!Has(id));
  const int64_t bytes = RoundUp(layout.total_bytes, kSystemPageBytes);
  if (bytes > limit_bytes_) return nullptr;
  while (bytes_ + bytes > limit_bytes_ || count() >= kMostAdapters) {
    const AdapterId oldest = uses_.front();
    Drop(oldest);
    dropped_.push_back(oldest);
  }
  absl::StatusOr<std::unique_ptr<PoolMemory>> memory = MapHostMemory(bytes);
  if (!memory.ok()) return nullptr;
  auto packed = std::make_shared<PackedAdapter>(PackedAdapter{.layout = layout, .memory = *std::move(memory)});
  entries_[id] = {.packed = packed, .bytes = bytes, .use = uses_.insert(uses_.end(), id)};
  bytes_ += bytes;
  return packed;
}

bool WarmAdapters::SetFilled(AdapterId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return false;
  found->second.filled = true;
  return true;
}

std::shared_ptr<const PackedAdapter> WarmAdapters::Find(AdapterId id) const {
  const auto found = entries_.find(id);
  return found == entries_.end() || !found->second.filled ? nullptr : found->second.packed;
}

void WarmAdapters::Touch(AdapterId id) {
  const auto found = entries_.find(id);
  if (found != entries_.end()) uses_.splice(uses_.end(), uses_, found->second.use);
}

void WarmAdapters::Drop(AdapterId id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  bytes_ -= found->second.bytes;
  uses_.erase(found->second.use);
  entries_.erase(found);
}

std::vector<AdapterId> WarmAdapters::TakeDropped() { return std::exchange(dropped_, {}); }

}  // namespace lorad
