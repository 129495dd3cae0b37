#include "tests/support/source_dir.h"

#include <cstdlib>

namespace lorad {

std::string SourceDir() {
  const char* const elsewhere = std::getenv("LORAD_SOURCE_DIR");
  return elsewhere == nullptr ? LORAD_SOURCE_DIR : elsewhere;
}

}  // namespace lorad
