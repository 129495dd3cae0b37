#include "scheduler/order/order.h"

namespace lorad {

bool CameBefore(const OrderKey& a, const OrderKey& b) {
  if (a.priority != b.priority) return a.priority < b.priority;
  if (a.begun != b.begun) return a.begun;
  if (a.arrival_us != b.arrival_us) return a.arrival_us < b.arrival_us;
  return a.number < b.number;
}

}  // namespace lorad
