#pragma once

#include <string>

#include "model/causal_lm.h"

namespace lorad {

std::string GoldenDir(const std::string& base);  // tests/golden/<base>

// The golden base in fp32, read once a process.
CausalLm& GoldenBase(const std::string& base);

}  // namespace lorad
