#include "adapters/train/device_turns.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include <ATen/ops/empty.h>

#include "adapters/train/in_device_turn.h"
#include "model/base/check.h"
#include "model/device_step.h"
#include "model/ops/autograd/in_pieces.h"

namespace lorad {
namespace {

// From memory that is not pinned some GB a second: a piece of this many takes about as long as so many products for
// each (scheduler/tuning/training_pace.cc).
constexpr int64_t kSentElements = int64_t{1} << 20;
constexpr int64_t kProductsOfSent = int64_t{1} << 16;

thread_local const DeviceTurns::Turn* turn_of_thread = nullptr;

}  // namespace

DeviceTurns::DeviceTurns(Turn turn) : turn_(std::move(turn)) {
  LORAD_CHECK(turn_of_thread == nullptr);
  if (turn_) turn_of_thread = &turn_;
}

DeviceTurns::~DeviceTurns() { turn_of_thread = nullptr; }

absl::Status InDeviceTurn(at::Device device, const std::function<absl::Status()>& use) {
  if (device.is_cpu() || turn_of_thread == nullptr) return GuardedOnDevice(use);
  absl::Status status;
  (*turn_of_thread)([&] { status = GuardedOnDevice(use); });
  return status;
}

void Send(const at::Tensor& host, const at::Tensor& to) {
  at::Tensor target = to;
  if (to.is_cpu() || !to.is_contiguous()) {
    target.copy_(host);
    return;
  }
  target = to.view({-1});
  const at::Tensor from = host.contiguous().view({-1});
  ItemsInPieces(from.numel(), kSentElements, kProductsOfSent, [&](int64_t first, int64_t count) {
    target.narrow(0, first, count).copy_(from.narrow(0, first, count));
  });
}

at::Tensor SentTo(at::Device device, const at::Tensor& host) {
  if (device.is_cpu()) return host;
  at::Tensor to = at::empty(host.sizes(), host.options().device(device));
  Send(host, to);
  return to;
}

}  // namespace lorad
