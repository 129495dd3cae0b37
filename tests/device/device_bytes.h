#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

namespace lorad {

// What lies there on the device, behind all that is queued on the current stream.
inline std::vector<std::byte> Read(std::byte* from, int64_t bytes) {
  const at::Device device(at::kCUDA, 0);
  const at::Tensor on_host = at::for_blob(from, {bytes})
                                 .options(at::TensorOptions().dtype(at::kByte).device(device))
                                 .target_device(device)
                                 .make_tensor()
                                 .cpu();
  const auto* const begin = static_cast<const std::byte*>(on_host.const_data_ptr());
  return {begin, begin + bytes};
}

}  // namespace lorad
