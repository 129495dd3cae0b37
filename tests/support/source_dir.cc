#include "tests/support/source_dir.h"

namespace lorad {

std::string SourceDir() { return LORAD_SOURCE_DIR; }

}  // namespace lorad
