#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Abseil 20220623 has no status macros of its own.
#define LORAD_CONCAT_INNER(a, b) a##b
#define LORAD_CONCAT(a, b) LORAD_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                                                        \
  do {                                                                                     \
    if (absl::Status lorad_status = (expression); !lorad_status.ok()) return lorad_status; \
  } while (false)

#define ASSIGN_OR_RETURN(declaration, expression) \
  LORAD_ASSIGN_OR_RETURN(LORAD_CONCAT(lorad_or_, __LINE__), declaration, expression)
#define LORAD_ASSIGN_OR_RETURN(temporary, declaration, expression) \
  auto temporary = (expression);                                   \
  if (!temporary.ok()) return std::move(temporary).status();       \
  declaration = *std::move(temporary)
