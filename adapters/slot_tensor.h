#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

namespace lorad {

// Over memory of a slot, which is not copied and only read: LibTorch has no const tensors. It is told the device, so
// that it need not ask the driver whose the address is.
inline at::Tensor SlotTensor(const void* data, at::IntArrayRef sizes, at::ScalarType dtype, at::Device device) {
  return at::for_blob(const_cast<void*>(data), sizes)
      .options(at::TensorOptions().dtype(dtype).device(device))
      .target_device(device)
      .make_tensor();
}

}  // namespace lorad
