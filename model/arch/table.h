#pragma once

#include "absl/types/span.h"
#include "model/arch/architecture.h"

namespace lorad {

absl::Span<const Architecture> Architectures();

// By its name in "architectures"; nullptr when there is none.
const Architecture* FindArchitecture(absl::string_view name);

}  // namespace lorad
