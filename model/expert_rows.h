#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/row_segments.h"

namespace lorad {

// Rows dealt to experts. A (row, expert) pair is one row of an expert's matmul; pairs are sorted by expert, and within
// one by row, so that an expert's weights are read once. Host side, plain data.
struct ExpertRows {
  std::vector<int32_t> starts;  // [E+1]; pairs starts[e]..starts[e+1] are expert e's
  std::vector<int32_t> rows;    // [P]; the row of each pair, ascending within an expert
  std::vector<int32_t> pairs;   // [R, k]; the pairs of each row by ascending expert; -1 behind the last
  std::vector<float> weights;   // [R, k]; of those pairs, 0 behind the last

  int64_t num_pairs() const { return static_cast<int64_t>(rows.size()); }
};

// experts [R, k]: what each row chose, distinct, in any order; negative = no choice. weights [R, k] of the choices.
// A row's pairs are in ascending order of the expert, so that what is summed over them does not depend on other rows.
ExpertRows GroupByExpert(absl::Span<const int32_t> experts, absl::Span<const float> weights, int64_t rows,
                         int64_t num_experts);

// The terms of each pair's row, at the pair's expert; `rows` are the segments of the R rows. Pairs read row by row of
// an x [R, in]: input_rows says which.
RowSegments SegmentsOfPairs(const RowSegments& rows, const ExpertRows& pairs);

}  // namespace lorad
