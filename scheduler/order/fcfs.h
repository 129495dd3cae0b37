#pragma once

#include "scheduler/order/order.h"

namespace lorad {

// Lower priority number first, then who has begun already, then who came first.
class FirstComeFirstServed final : public SequenceOrder {
 public:
  std::string_view name() const override { return "fcfs"; }
  bool Before(const OrderKey& a, const OrderKey& b) const override;
};

}  // namespace lorad
