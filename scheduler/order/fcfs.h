#pragma once

#include "scheduler/order/order.h"

namespace lorad {

// As they came, within a priority.
class FirstComeFirstServed final : public SequenceOrder {
 public:
  std::string_view name() const override { return "fcfs"; }
  std::vector<size_t> Arrange(absl::Span<const OrderKey> waiting, bool latest_first) const override;
};

}  // namespace lorad
