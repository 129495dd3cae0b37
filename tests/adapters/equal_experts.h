#pragma once

#include <cstdint>

#include "adapters/image.h"
#include "model/sites.h"

namespace lorad {

// MixLoRA that answers as a plain LoRA does: each pair of the FFN `experts` times, and a router of each layer that
// takes sides, whose best two experts' weights sum to one.
AdapterImage EqualExperts(AdapterImage lora, int32_t experts, const BaseShape& base);

}  // namespace lorad
