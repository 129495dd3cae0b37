#pragma once

#include <ATen/core/Tensor.h>

namespace lorad {

// The tensor on the host, contiguous; itself where it lies so there. From a device by a stream of its own, through
// pinned memory, in pieces: steps that are queued meanwhile neither wait for it nor are waited for, which they would
// with LibTorch's own copy. Waits for what was queued on the current stream before. Throws as LibTorch does.
at::Tensor CopyAside(const at::Tensor& tensor);

}  // namespace lorad
