#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "model/safetensors_writer.h"

namespace lorad {

// Writes `path` as torch.save writes a dictionary of tensors, each with a storage of its own, and syncs it to disk. The
// same tensors give the same bytes. Not atomic, as WriteSafetensors.
//
// Errors   InvalidArgument when bytes and shape disagree, a name comes twice, or a tensor has 4 GiB or more; as
//          FileError.
// Source   torch/serialization.py (zip, protocol 2); PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.5.3.
absl::Status WriteTorchFile(const std::string& path, absl::Span<const TensorToWrite> tensors);

}  // namespace lorad
