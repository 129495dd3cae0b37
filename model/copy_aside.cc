#include "model/copy_aside.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace lorad {
namespace {

constexpr int64_t kPieceBytes = int64_t{4}
                                << 20;  // 0.1 to 0.2 ms of the copy engine, behind which a step's draws may wait

// One for all threads: LibTorch has 32, and hands out the first again after the last.
c10::Stream StreamAside(c10::Device device) {
  static const c10::Stream aside = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  return aside;
}

}  // namespace

at::Tensor CopyAside(const at::Tensor& tensor) {
  const at::Tensor own = tensor.detach();
  if (own.is_cpu()) return own.contiguous();
  const c10::Stream aside = StreamAside(own.device());
  c10::Event ready(own.device().type());
  ready.record(c10::impl::VirtualGuardImpl(own.device().type()).getStream(own.device()));
  ready.block(aside);
  const c10::StreamGuard on_it(aside);
  const at::Tensor flat = own.contiguous().view({-1});
  at::Tensor host = at::empty(own.sizes(), own.options().device(at::kCPU));
  auto* const to = static_cast<std::byte*>(host.mutable_data_ptr());
  const int64_t count = flat.numel(), size = flat.element_size(), piece = std::min(count, kPieceBytes / size);
  const at::Tensor staged = at::empty({piece}, host.options().pinned_memory(true));
  for (int64_t done = 0; done < count; done += piece) {
    const int64_t part = std::min(piece, count - done);
    staged.narrow(0, 0, part).copy_(flat.narrow(0, done, part), /*non_blocking=*/true);
    aside.synchronize();
    std::memcpy(to + done * size, staged.const_data_ptr(), static_cast<size_t>(part * size));
  }
  return host;
}

}  // namespace lorad
