#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/types/span.h"

namespace lorad {

// What an order may look at.
struct OrderKey {
  int32_t priority = 0;
  bool begun = false;  // ran before and was preempted
  int64_t arrival_us = 0;
  uint64_t number = 0;  // in the order of acceptance
  // For orders that share: whose it is (scheduler/account.h). All keys of an account have the same `served`.
  uint64_t account = 0;
  double served = 0.0;  // what the account has had, by its weight
  double cost = 0.0;    // what beginning this one adds to that
};

// Lower priority number first, then who has begun already, then who came first. Read backwards it says who of the
// running is preempted, whatever the order of the waiting. Total.
bool CameBefore(const OrderKey& a, const OrderKey& b);

// Who of the waiting goes first. Pure.
class SequenceOrder {
 public:
  virtual ~SequenceOrder() = default;
  virtual std::string_view name() const = 0;
  // The places in `waiting`, which is sorted by CameBefore, in the order in which they begin. `latest_first`: among
  // those that are equal but for their arrival, and have not begun, the last to come goes first.
  virtual std::vector<size_t> Arrange(absl::Span<const OrderKey> waiting, bool latest_first) const = 0;
};

absl::Span<const SequenceOrder* const> SequenceOrders();
const SequenceOrder* FindSequenceOrder(std::string_view name);  // nullptr: no such

}  // namespace lorad
