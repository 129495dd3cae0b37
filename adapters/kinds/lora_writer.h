#pragma once

#include "absl/status/status.h"
#include "adapters/image.h"
#include "model/base/new_folder.h"
#include "model/sites.h"

namespace lorad {

// Writes adapter_model.safetensors and adapter_config.json of a LoRA or DoRA adapter into `folder`, in PEFT's names and
// in the image's dtypes. What is resolved in the image stays resolved: modules are named by their whole paths, scales
// given by alpha, with patterns where they differ. Reading the folder gives the image again, digest included; the same
// image gives the same bytes. `base` is the one that it was read for.
// Errors: Unimplemented for another kind, or for what an image holds that this format has no place for; as FileError.
absl::Status WriteLora(const AdapterImage& image, const BaseShape& base, const NewFolder& folder);

}  // namespace lorad
