#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "adapters/image.h"
#include "adapters/kinds/kind.h"
#include "model/base/file_source.h"
#include "model/safetensors.h"

namespace lorad {

// What the readers of all kinds do with a folder's tensors.

inline constexpr char kDoraWithoutMagnitudes[] =
    "use_dora without magnitudes, which MoE-PEFT does not save: served as MoE-PEFT loads it, as plain LoRA";

// The index of adapter_model.safetensors, or of adapter_model.bin without it. DataLoss: neither is there, or no
// tensors.
absl::StatusOr<SafetensorsIndex> FindAdapterTensors(FileSource& files, const std::string& dir);

// DataLoss for NaN and infinity, InvalidArgument for a number that is none in `pool_dtype`; `about` names the tensor.
absl::Status CheckFinite(const std::string& about, const HostTensor& host, DType pool_dtype);

// Before the tensors are read: an adapter that can never be served takes no memory. InvalidArgument: it is too large.
absl::Status CheckFitsPool(const std::string& path, const std::vector<ImageSlot>& slots,
                           const AdapterReadOptions& options);

}  // namespace lorad
