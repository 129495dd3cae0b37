#pragma once

#include <string>

namespace lorad {

// The checkout that the tests read golden folders and examples from. In a source of its own, so that compiled tests are
// the same in every checkout and a compiler cache serves them all. LORAD_SOURCE_DIR in the environment: where they lie
// on a machine that has no checkout (scripts/gpu-bundle).
std::string SourceDir();

}  // namespace lorad
