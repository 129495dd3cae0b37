#include "adapters/ops/check_segments.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

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

absl::Status CheckEmbeddingRows(const ArgCheck& check, const at::Tensor& ids, const at::Tensor& y,
                                const RowSegments& rows, int32_t num_slots) {
  RETURN_IF_ERROR(check.Contiguous("ids", ids, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Floating("y", y));
  RETURN_IF_ERROR(check.Tensor("y", y, y.scalar_type(), {ids.size(0), ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(ids, "y", y));
  return CheckSegments(check, rows, ids.size(0), num_slots);
}

absl::Status CheckInputRows(const ArgCheck& check, const RowSegments& rows, int64_t x_rows) {
  const std::vector<int32_t>& input = rows.input_rows;
  if (!input.empty() && std::ssize(input) != rows.rows()) {
    return check.Error("rows.input_rows", absl::StrCat(input.size(), " entries"), absl::StrCat(rows.rows()));
  }
  for (const int32_t row : input) {
    if (row < 0 || row >= x_rows) {
      return check.Error("rows.input_rows", absl::StrCat("row ", row), absl::StrCat("0 to ", x_rows - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckExperts(const ArgCheck& check, const RowSegments& rows, const SlotWeights* slots) {
  for (const SlotTerm& term : rows.terms) {
    const int32_t experts = slots[term.slot].experts;
    if (slots[term.slot].adds() && (term.expert < 0 || term.expert >= experts)) {
      return check.Error("rows.terms", absl::StrCat("expert ", term.expert), absl::StrCat("0 to ", experts - 1));
    }
  }
  return absl::OkStatus();
}

}  // namespace lorad
