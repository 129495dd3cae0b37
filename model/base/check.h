#pragma once

#include <cstdio>
#include <cstdlib>

namespace lorad::internal {
[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, condition);
  std::abort();
}
}  // namespace lorad::internal

// For our own broken invariants only: what a caller, a file or a peer can cause is a Status.
#define LORAD_CHECK(condition)                                                        \
  do {                                                                                \
    if (!(condition)) ::lorad::internal::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)
#define LORAD_CHECK_GE(a, b) LORAD_CHECK((a) >= (b))
#define LORAD_CHECK_GT(a, b) LORAD_CHECK((a) > (b))
#define LORAD_CHECK_LE(a, b) LORAD_CHECK((a) <= (b))
#define LORAD_CHECK_EQ(a, b) LORAD_CHECK((a) == (b))
