#include "scheduler/find_adapter.h"

#include <algorithm>

namespace lorad {

const AdapterInfo* FindListed(const AdapterListing& listing, const std::string& name) {
  const auto found = std::lower_bound(listing.all.begin(), listing.all.end(), name,
                                      [](const auto& info, const std::string& n) { return info->name < n; });
  return found == listing.all.end() || (*found)->name != name ? nullptr : found->get();
}

const AdapterInfo* FindLive(const AdapterListing& listing, const std::string& name) {
  const AdapterInfo* const listed = FindListed(listing, name);
  const bool live =
      listed != nullptr && listed->state != AdapterState::kFailed && listed->state != AdapterState::kDraining;
  return live ? listed : nullptr;
}

}  // namespace lorad
