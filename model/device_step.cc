#include "model/device_step.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "absl/strings/str_cat.h"
#include "model/base/guarded.h"
#include "model/ops/put_drawn_tokens.h"
#include "model/ops/torch_errors.h"

namespace lorad {
namespace {

c10::Stream CurrentStream(at::Device device) { return c10::impl::VirtualGuardImpl(device.type()).getStream(device); }

}  // namespace

ForwardBatch BatchOn(at::Device device, const ForwardBatch& batch) {
  ForwardBatch on_device = batch;
  at::Tensor* const tensors[] = {&on_device.token_ids, &on_device.positions,   &on_device.cu_rows,
                                 &on_device.kv_slots,  &on_device.block_table, &on_device.logit_rows};
  int64_t count = 0;
  for (const at::Tensor* tensor : tensors) count += tensor->defined() ? tensor->numel() : 0;
  const at::Tensor staged = at::empty({count}, at::TensorOptions().dtype(at::kInt).pinned_memory(true));
  int32_t* next = staged.mutable_data_ptr<int32_t>();
  for (const at::Tensor* tensor : tensors) {
    if (!tensor->defined()) continue;
    if (tensor->numel() > 0) std::memcpy(next, tensor->const_data_ptr<int32_t>(), tensor->nbytes());
    next += tensor->numel();
  }
  const at::Tensor all = staged.to(device, /*non_blocking=*/true);
  int64_t first = 0;
  for (at::Tensor* tensor : tensors) {
    if (!tensor->defined()) continue;
    const int64_t own = tensor->numel();
    *tensor = all.narrow(0, first, own).view(tensor->sizes());
    first += own;
  }
  if (batch.drawn.defined()) ThrowIfError(PutDrawnTokens({batch.drawn, on_device.token_ids}));
  return on_device;
}

PlacedBatch Place(at::Device device, ForwardBatch batch) {
  PlacedBatch placed = {batch, {}};
  placed.on_device = device.is_cpu() ? std::move(batch) : BatchOn(device, batch);
  return placed;
}

at::Tensor OnDevice(at::Device device, const at::Tensor& host) {
  if (device.is_cpu()) return host;
  const at::Tensor staged = at::empty(host.sizes(), host.options().pinned_memory(true));
  staged.copy_(host);
  return staged.to(device, /*non_blocking=*/true);
}

at::Tensor QueueToHost(const at::Tensor& tensor) {
  if (tensor.is_cpu()) return tensor;
  const at::Tensor host = at::empty(tensor.sizes(), tensor.options().device(at::kCPU).pinned_memory(true));
  host.copy_(tensor, /*non_blocking=*/true);
  return host;
}

at::Tensor ToHost(const at::Tensor& tensor) {
  const at::Tensor host = QueueToHost(tensor);
  if (!tensor.is_cpu()) CurrentStream(tensor.device()).synchronize();
  return host;
}

void ToHostInPieces(const at::Tensor& rows, int64_t most_bytes,
                    const std::function<void(int64_t first, const at::Tensor& on_host)>& fn) {
  const int64_t count = rows.size(0);
  if (count == 0) return;
  const int64_t row_bytes = rows.size(1) * static_cast<int64_t>(rows.element_size());
  const int64_t most = rows.is_cpu() ? count : std::max<int64_t>(1, most_bytes / std::max<int64_t>(1, row_bytes));
  for (int64_t first = 0; first < count; first += most) {
    fn(first, ToHost(rows.narrow(0, first, std::min(most, count - first))));
  }
}

absl::Status StatusOf(const c10::Error& error) {
  const char* const message = error.what_without_backtrace();
  if (!IsOutOfMemory(error)) return absl::InternalError(message);
  return absl::ResourceExhaustedError(absl::StrCat("the device's memory: ", message, "; lower --memory-bytes"));
}

StreamMark::StreamMark(at::Device device) {
  if (device.is_cpu()) return;
  event_ = std::make_unique<c10::Event>(device.type());
  event_->record(CurrentStream(device));
}

void StreamMark::Await() const {
  if (event_ != nullptr) event_->synchronize();
}

void AwaitDevice(at::Device device) {
  if (device.is_cpu()) return;
  try {
    CurrentStream(device).synchronize();
  } catch (const std::exception&) {
    // It has been thrown by what was waited for before, or comes again.
  }
}

}  // namespace lorad
