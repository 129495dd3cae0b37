#pragma once

#include "scheduler/order/order.h"

namespace lorad {

// Shares the service among accounts: within a priority, whose account has had least by its weight goes next, and each
// that goes adds its cost before the next is chosen. Within an account, as they came. A preempted one goes first in its
// account and costs nothing again, but waits for its account's turn: else one account could begin many and let them
// take turns at preempting each other while nobody else begins.
// Source: the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models", OSDI 24, algorithm 2.
class FairShare final : public SequenceOrder {
 public:
  std::string_view name() const override { return "fair_share"; }
  std::vector<size_t> Arrange(absl::Span<const OrderKey> waiting, bool latest_first) const override;
};

}  // namespace lorad
