#include <algorithm>
#include <vector>

#include "absl/types/span.h"
#include "model/expert_rows.h"
#include "model/ops/cpu_ops.h"

// The forms that the host deals, on tensors. Nothing but tests calls them: a layer on the CPU deals by ExpertRows.
namespace lorad::cpu {
namespace {

template <typename T>
absl::Span<const T> SpanOf(const at::Tensor& t) {
  return absl::MakeConstSpan(t.const_data_ptr<T>(), static_cast<size_t>(t.numel()));
}

template <typename T>
void CopyTo(const std::vector<T>& from, const at::Tensor& to) {
  std::copy(from.begin(), from.end(), to.mutable_data_ptr<T>());
}

}  // namespace

absl::Status DealToExperts(const DealToExpertsArgs& args) {
  const ExpertRows grouped = GroupByExpert(SpanOf<int32_t>(args.experts), SpanOf<float>(args.weights),
                                           args.experts.size(0), args.dealt.experts());
  std::fill_n(args.dealt.rows.mutable_data_ptr<int32_t>(), args.dealt.num_pairs(), 0);
  CopyTo(grouped.starts, args.dealt.starts);
  CopyTo(grouped.rows, args.dealt.rows);
  CopyTo(grouped.pairs, args.dealt.pairs);
  CopyTo(grouped.weights, args.dealt.weights);
  return absl::OkStatus();
}

absl::Status DealtLinear(const DealtLinearArgs& args) {
  const absl::Span<const int32_t> starts = SpanOf<int32_t>(args.starts);
  const int64_t pairs = starts.back();
  if (pairs == 0) return absl::OkStatus();
  std::vector<ExpertLinearPart> parts;
  for (const DealtLinearPart& part : args.parts) parts.push_back({part.weights.weights(), part.first_column});
  at::Tensor y = args.y.narrow(0, 0, pairs);
  if (args.rows.defined()) {
    return ExpertLinear({args.x, parts, starts, SpanOf<int32_t>(args.rows).first(static_cast<size_t>(pairs)), y});
  }
  const at::Tensor x = args.x.narrow(0, 0, pairs);
  return ExpertLinear({x, parts, starts, {}, y});
}

absl::Status CombineDealt(const CombineDealtArgs& args) {
  const absl::Span<const int32_t> pairs = SpanOf<int32_t>(args.pairs);
  const absl::Span<const float> weights = SpanOf<float>(args.weights);
  if (!args.rows.defined()) {
    return CombineExperts({args.x, pairs, weights, args.shared, args.shared_logits, args.y});
  }
  const absl::Span<const int32_t> rows = SpanOf<int32_t>(args.rows);
  const auto k = static_cast<size_t>(args.pairs.size(1));
  for (size_t q = 0; q < rows.size(); ++q) {
    if (rows[q] < 0) continue;
    const absl::Status combined =
        CombineExperts({args.x, pairs.subspan(q * k, k), weights.subspan(q * k, k), args.shared, args.shared_logits,
                        args.y, rows.subspan(q, 1), args.add});
    if (!combined.ok()) return combined;
  }
  return absl::OkStatus();
}

}  // namespace lorad::cpu
