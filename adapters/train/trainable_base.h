#pragma once

#include "absl/status/status.h"

namespace lorad {

class CausalLm;

// Errors: Unimplemented for a base that cannot be trained on where it lies.
absl::Status CheckTrainable(const CausalLm& base);

}  // namespace lorad
