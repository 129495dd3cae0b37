#include "server/tuning/field_limits.h"

#include "absl/strings/str_cat.h"

namespace lorad {

absl::Status Limit(absl::string_view field, absl::string_view value, absl::string_view limit) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", value, "; limit: ", limit));
}

absl::Status CheckReal(absl::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return Limit(field, absl::StrCat(value), absl::StrCat(low, " to ", high));
}

absl::Status CheckCount(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Limit(field, absl::StrCat(value), absl::StrCat(low, " to ", high));
}

absl::Status NotSupported(absl::string_view field) {
  return absl::UnimplementedError(absl::StrCat(field, ": not supported in this version; leave it out"));
}

}  // namespace lorad
