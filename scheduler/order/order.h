#pragma once

#include <cstdint>
#include <string_view>

#include "absl/types/span.h"

namespace lorad {

// What an order may look at.
struct OrderKey {
  int32_t priority = 0;
  bool begun = false;  // ran before and was preempted
  int64_t arrival_us = 0;
  uint64_t number = 0;  // in the order of acceptance
};

// Who goes first: of the waiting, and, read backwards, who of the running is preempted. Pure and total.
class SequenceOrder {
 public:
  virtual ~SequenceOrder() = default;
  virtual std::string_view name() const = 0;
  virtual bool Before(const OrderKey& a, const OrderKey& b) const = 0;
};

absl::Span<const SequenceOrder* const> SequenceOrders();
const SequenceOrder* FindSequenceOrder(std::string_view name);  // nullptr: no such

}  // namespace lorad
