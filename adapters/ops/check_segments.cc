#include "adapters/ops/check_segments.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lorad {

absl::Status CheckSegments(const ArgCheck& check, const RowSegments& rows, int64_t num_rows, int32_t num_slots) {
  if (rows.starts.empty() || rows.starts.front() != 0 || rows.rows() != num_rows ||
      !std::is_sorted(rows.starts.begin(), rows.starts.end())) {
    return check.Error("rows.starts",
                       absl::StrCat(rows.starts.size(), " entries to ", rows.starts.empty() ? 0 : rows.rows()),
                       absl::StrCat("ascending from 0 to ", num_rows));
  }
  if (rows.term_starts.size() != rows.starts.size() || rows.term_starts.front() != 0 ||
      rows.term_starts.back() != static_cast<int64_t>(rows.terms.size()) ||
      !std::is_sorted(rows.term_starts.begin(), rows.term_starts.end())) {
    return check.Error("rows.term_starts", absl::StrCat(rows.term_starts.size(), " entries"),
                       absl::StrCat(rows.starts.size(), " entries, ascending from 0 to ", rows.terms.size()));
  }
  for (const SlotTerm& term : rows.terms) {
    if (term.slot < 0 || term.slot >= num_slots) {
      return check.Error("rows.terms", absl::StrCat("slot ", term.slot), absl::StrCat("0 to ", num_slots - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace lorad
