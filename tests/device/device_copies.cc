#include "tests/device/device_copies.h"

#include <atomic>
#include <memory>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "model/base/check.h"
#include "model/memory/pool_memory.h"
#include "tests/device/test_device.h"

namespace lorad {
namespace {

const at::TensorOptions kBytes = at::TensorOptions().dtype(at::kByte);
const at::Device kDevice(at::kCUDA, 0);

// Zeroed memory that both sides use; as long as the process lives.
void* SharedWithHost(int64_t bytes) {
  static PoolMemory* const memory = TestDeviceMemory().create(4096).value().release();
  static auto* const all = new std::vector<std::shared_ptr<void>>;
  all->push_back(memory->SharedWithHost(bytes));
  LORAD_CHECK(all->back() != nullptr);
  return all->back().get();
}

}  // namespace

at::Tensor DeviceCopies::CopyOf(const void* host, int64_t bytes) {
  const auto found = copies_.find(host);
  if (found != copies_.end()) {
    LORAD_CHECK(found->second.numel() == bytes);
    return found->second;
  }
  const at::Tensor on_host = at::from_blob(const_cast<void*>(host), {bytes}, kBytes);
  return copies_.emplace(host, on_host.to(kDevice)).first->second;
}

const std::byte* DeviceCopies::BytesOf(const void* host, int64_t bytes) {
  if (host == nullptr || bytes == 0) return nullptr;
  return static_cast<const std::byte*>(CopyOf(host, bytes).const_data_ptr());
}

at::Tensor DeviceCopies::Of(const at::Tensor& host) {
  if (!host.defined()) return host;
  const auto bytes = static_cast<int64_t>(host.storage().nbytes());
  if (bytes == 0) return at::empty(host.sizes(), host.options().device(kDevice));
  return CopyOf(host.storage().data(), bytes)
      .view(host.scalar_type())
      .as_strided(host.sizes(), host.strides(), host.storage_offset());
}

LinearWeight DeviceCopies::Of(const LinearWeight& host) {
  if (!host.defined()) return host;
  if (!host.quantized()) return LinearWeight::Prepare(host.RowMajor().to(kDevice));
  return LinearWeight::FromStored(host.weight().to(kDevice), host.out_features(), host.in_features(),
                                  host.quantization());
}

KvView DeviceCopies::Of(const KvView& host, int64_t last_block) {
  KvView device = host;
  const int64_t bytes = last_block * host.page_bytes + host.layout.block_bytes();
  device.arena = const_cast<std::byte*>(BytesOf(host.arena, bytes));
  return device;
}

std::vector<SlotWeights> DeviceCopies::Of(const SlotWeights* slots, int32_t count, int64_t in, int64_t out,
                                          int64_t element_bytes) {
  std::vector<SlotWeights> device(slots, slots + count);
  for (SlotWeights& w : device) {
    const int64_t ranks = int64_t{w.experts} * w.rank;
    w.a = Of(w.a, ranks * in * element_bytes);
    w.b_t = Of(w.b_t, ranks * out * element_bytes);
    w.dora = Of(w.dora, w.experts * 3 * out);
    w.delta_bias = Of(w.delta_bias, out);
    w.bias = Of(w.bias, out);
    w.rows = Of(w.rows, int64_t{w.num_rows} * w.width * element_bytes);
    w.row_ids = Of(w.row_ids, w.num_rows);
    w.router = Of(w.router, w.experts * in);
    if (w.expert_rows == nullptr) continue;
    using Counter = std::atomic<int64_t>;
    auto* const shared = static_cast<Counter*>(SharedWithHost(w.experts * int64_t{sizeof(Counter)}));
    for (int32_t e = 0; e < w.experts; ++e) shared[e] = w.expert_rows[e].load();
    counters_.push_back({w.expert_rows, shared, w.experts});
    w.expert_rows = shared;
  }
  return device;
}

absl::Status DeviceCopies::Back(absl::Status status) {
  for (const auto& [host, device] : copies_) {
    at::from_blob(const_cast<void*>(host), {device.numel()}, kBytes).copy_(device);
  }
  for (const Counters& counters : counters_) {
    for (int64_t e = 0; e < counters.count; ++e) counters.host[e] = counters.shared[e].load();
  }
  return status;
}

}  // namespace lorad
