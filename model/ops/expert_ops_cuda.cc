#include <ATen/ops/empty.h>

#include "absl/strings/str_cat.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda/dealt_kernels.h"
#include "model/ops/cuda/expert_kernels.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda/upload.h"
#include "model/ops/cuda_ops.h"

// Routing to experts and back.
namespace lorad::cuda {
namespace {

absl::Status CheckExperts(std::string_view op, std::string_view argument, int64_t experts) {
  if (experts <= kMaxExperts) return absl::OkStatus();
  return ArgCheck(op).Error(argument, absl::StrCat(experts, " experts"), absl::StrCat(kMaxExperts, " on CUDA"));
}

// Each row to its own of y.
template <typename T, typename Args>
CombinedRows<T> CombinedOf(const Args& args, int64_t rows, int64_t k, const int32_t* pairs, const float* weights) {
  return {.rows = rows,
          .width = args.y.size(1),
          .k = k,
          .x = RowsOf<T>(args.x),
          .pairs = pairs,
          .weights = weights,
          .shared = RowsOf<T>(args.shared),
          .shared_logits = RowsOf<T>(args.shared_logits),
          .to_rows = nullptr,
          .add = false,
          .y = MutableRowsOf<T>(args.y)};
}

}  // namespace

absl::Status RouteTopK(const RouteTopKArgs& args) {
  if (args.logits.size(0) == 0) return absl::OkStatus();
  if (const absl::Status few = CheckExperts("RouteTopK", "logits", args.logits.size(1)); !few.ok()) return few;
  return StatusOf("RouteTopK", ForTypeOf(args.logits, [&](auto of_rows) {
                    return LaunchRouteTopK(RowsOf<decltype(of_rows)>(args.logits), args.logits.size(0),
                                           args.logits.size(1), args.experts.size(1), args.renormalise,
                                           args.experts.mutable_data_ptr<int32_t>(),
                                           args.weights.mutable_data_ptr<float>(), StreamOf(args.logits));
                  }));
}

absl::Status DealToExperts(const DealToExpertsArgs& args) {
  const int64_t rows = args.experts.size(0), k = args.experts.size(1), experts = args.dealt.experts();
  if (const absl::Status few = CheckExperts("DealToExperts", "starts", experts); !few.ok()) return few;
  if (rows * k == 0) {
    args.dealt.starts.zero_();
    return absl::OkStatus();
  }
  const DealtChoices choices = {.rows = rows,
                                .k = k,
                                .experts = experts,
                                .chosen = args.experts.const_data_ptr<int32_t>(),
                                .weights = args.weights.const_data_ptr<float>(),
                                .starts = args.dealt.starts.mutable_data_ptr<int32_t>(),
                                .pair_rows = args.dealt.rows.mutable_data_ptr<int32_t>(),
                                .pairs = args.dealt.pairs.mutable_data_ptr<int32_t>(),
                                .pair_weights = args.dealt.weights.mutable_data_ptr<float>()};
  const at::Tensor scratch = at::empty({DealScratch(choices)}, args.experts.options());
  return StatusOf("DealToExperts", LaunchDeal(choices, scratch.mutable_data_ptr<int32_t>(), StreamOf(args.experts)));
}

absl::Status CombineExperts(const CombineExpertsArgs& args) {
  const int64_t rows = args.rows.empty() ? args.y.size(0) : std::ssize(args.rows);
  if (args.y.numel() == 0) return absl::OkStatus();
  Upload upload;
  const int64_t pairs = upload.Add(args.pairs), weights = upload.Add(args.weights), to_rows = upload.Add(args.rows);
  upload.Send(args.y);
  return StatusOf("CombineExperts", ForTypeOf(args.y, [&](auto of_rows) {
                    auto combined = CombinedOf<decltype(of_rows)>(args, rows, std::ssize(args.pairs) / rows,
                                                                  upload.At<int32_t>(pairs), upload.At<float>(weights));
                    combined.to_rows = args.rows.empty() ? nullptr : upload.At<int32_t>(to_rows);
                    combined.add = args.add;
                    return LaunchCombineExperts(combined, StreamOf(args.y));
                  }));
}

absl::Status CombineDealt(const CombineDealtArgs& args) {
  const int64_t rows = args.pairs.size(0);
  if (args.y.numel() == 0 || rows == 0) return absl::OkStatus();
  return StatusOf("CombineDealt", ForTypeOf(args.y, [&](auto of_rows) {
                    auto combined = CombinedOf<decltype(of_rows)>(
                        args, rows, args.pairs.size(1), DataOf<int32_t>(args.pairs), DataOf<float>(args.weights));
                    combined.to_rows = DataOf<int32_t>(args.rows);
                    combined.add = args.add;
                    return LaunchCombineExperts(combined, StreamOf(args.y));
                  }));
}

}  // namespace lorad::cuda
