#include "model/expert_rows.h"

#include <algorithm>
#include <numeric>

namespace lorad {

ExpertRows GroupByExpert(absl::Span<const int32_t> experts, absl::Span<const float> weights, int64_t rows,
                         int64_t num_experts) {
  const int64_t k = rows == 0 ? 0 : static_cast<int64_t>(experts.size()) / rows;
  ExpertRows grouped;
  grouped.starts.assign(static_cast<size_t>(num_experts + 1), 0);
  for (const int32_t expert : experts) {
    if (expert >= 0) ++grouped.starts[static_cast<size_t>(expert) + 1];
  }
  std::partial_sum(grouped.starts.begin(), grouped.starts.end(), grouped.starts.begin());
  grouped.rows.resize(static_cast<size_t>(grouped.starts.back()));
  grouped.pairs.assign(experts.size(), -1);
  grouped.weights.assign(experts.size(), 0.0f);

  std::vector<int32_t> next(grouped.starts.begin(), grouped.starts.end() - 1);
  std::vector<int64_t> order(static_cast<size_t>(k));  // a row's choices by ascending expert
  for (int64_t row = 0; row < rows; ++row) {
    std::iota(order.begin(), order.end(), row * k);
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return experts[a] < experts[b]; });
    int64_t place = row * k;
    for (const int64_t choice : order) {
      if (experts[choice] < 0) continue;
      const int32_t pair = next[static_cast<size_t>(experts[choice])]++;
      grouped.rows[static_cast<size_t>(pair)] = static_cast<int32_t>(row);
      grouped.pairs[static_cast<size_t>(place)] = pair;
      grouped.weights[static_cast<size_t>(place)] = weights[choice];
      ++place;
    }
  }
  return grouped;
}

RowSegments SegmentsOfPairs(const RowSegments& rows, const ExpertRows& pairs) {
  RowSegments segments;
  segments.input_rows = pairs.rows;
  if (rows.base_only()) {
    segments.starts = {0, static_cast<int32_t>(pairs.num_pairs())};
    segments.term_starts = {0, 0};
    return segments;
  }
  for (size_t expert = 0; expert + 1 < pairs.starts.size(); ++expert) {
    size_t group = 0;  // of the row at hand; rows ascend
    for (int32_t pair = pairs.starts[expert]; pair < pairs.starts[expert + 1];) {
      while (rows.starts[group + 1] <= pairs.rows[pair]) ++group;
      while (pair < pairs.starts[expert + 1] && pairs.rows[pair] < rows.starts[group + 1]) ++pair;
      for (int32_t t = rows.term_starts[group]; t < rows.term_starts[group + 1]; ++t) {
        segments.terms.push_back(rows.terms[static_cast<size_t>(t)]);
        segments.terms.back().expert = static_cast<int32_t>(expert);
      }
      segments.starts.push_back(pair);
      segments.term_starts.push_back(static_cast<int32_t>(segments.terms.size()));
    }
  }
  return segments;
}

}  // namespace lorad
