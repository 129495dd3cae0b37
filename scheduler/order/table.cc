#include "scheduler/order/fcfs.h"
#include "scheduler/order/order.h"

namespace lorad {

absl::Span<const SequenceOrder* const> SequenceOrders() {
  static const FirstComeFirstServed fcfs;
  static const SequenceOrder* const orders[] = {&fcfs};
  return orders;
}

const SequenceOrder* FindSequenceOrder(std::string_view name) {
  for (const SequenceOrder* order : SequenceOrders()) {
    if (order->name() == name) return order;
  }
  return nullptr;
}

}  // namespace lorad
