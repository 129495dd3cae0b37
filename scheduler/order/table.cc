#include "scheduler/order/fair_share.h"
#include "scheduler/order/fcfs.h"
#include "scheduler/order/order.h"

namespace lorad {

absl::Span<const SequenceOrder* const> SequenceOrders() {
  static const FirstComeFirstServed fcfs;
  static const FairShare fair_share;
  static const SequenceOrder* const orders[] = {&fcfs, &fair_share};
  return orders;
}

const SequenceOrder* FindSequenceOrder(std::string_view name) {
  for (const SequenceOrder* order : SequenceOrders()) {
    if (order->name() == name) return order;
  }
  return nullptr;
}

}  // namespace lorad
