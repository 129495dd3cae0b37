#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace lorad {

// What callers are told of a field with a value that cannot be: InvalidArgument.
absl::Status Limit(absl::string_view field, absl::string_view value, absl::string_view limit);
absl::Status CheckReal(absl::string_view field, double value, double low, double high);  // not for NaN either
absl::Status CheckCount(absl::string_view field, int64_t value, int64_t low, int64_t high);

// Of a field that is known, and set in vain: Unimplemented.
absl::Status NotSupported(absl::string_view field);

}  // namespace lorad
