#pragma once

#include <string>

#include "absl/status/status.h"
#include "adapters/image.h"
#include "adapters/kinds/kind.h"
#include "adapters/kinds/peft_config.h"

namespace lorad {

// What a slot of PEFT's LoRA needs of the base's weights, once its own tensors are read. `path` names its module in
// errors. Unimplemented: the base's weights are needed and not at hand.

// PiSSA and OLoRA: the pair of the beginning, which PEFT took off the base (initial_pair.h). `saved_table`: the file
// has the module's own weight, which has lost it already. Errors: also Unimplemented on a tied head, on an embedding
// and on experts.
absl::Status AddInitialPair(const std::string& path, PeftInit init, bool saved_table, bool tied,
                            const AdapterReadOptions& options, ImageSlot* slot);

// DoRA's factors, and how far a replaced bias moves. Errors: also DataLoss for magnitudes that give no factor.
absl::Status AddFromBase(const std::string& path, const AdapterReadOptions& options, ImageSlot* slot);

}  // namespace lorad
