#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>

#include "model/ops/cuda/expert_kernels.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda/upload.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda_ops.h"

// Matmuls are cuBLAS's, through LibTorch; routing and combining are ours.
namespace lorad::cuda {

absl::Status Linear(const LinearArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  at::mm_out(args.y, args.x, args.weight.weight().t());
  return absl::OkStatus();
}

absl::Status ExpertLinear(const ExpertLinearArgs& args) {
  if (args.y.numel() == 0) return absl::OkStatus();
  at::Tensor x = args.x;
  if (!args.rows.empty()) {
    Upload upload;
    const int64_t at = upload.Add(args.rows);
    upload.Send(args.x);
    x = at::index_select(args.x, 0, upload.Ints(at, std::ssize(args.rows)));
  }
  for (size_t e = 0; e + 1 < args.starts.size(); ++e) {
    const int64_t first = args.starts[e], count = args.starts[e + 1] - first;
    if (count == 0) continue;
    for (const ExpertLinearPart& part : args.parts) {
      const at::Tensor& weight = part.weights[e].weight();
      at::Tensor y = args.y.narrow(0, first, count).narrow(1, part.first_column, weight.size(0));
      at::mm_out(y, x.narrow(0, first, count), weight.t());
    }
  }
  return absl::OkStatus();
}

absl::Status RouteTopK(const RouteTopKArgs& args) {
  if (args.logits.size(0) == 0) return absl::OkStatus();
  if (args.logits.size(1) > kMaxExperts) {
    return ArgCheck("RouteTopK")
        .Error("logits", absl::StrCat(args.logits.size(1), " experts"), absl::StrCat(kMaxExperts, " on CUDA"));
  }
  return StatusOf("RouteTopK", ForTypeOf(args.logits, [&](auto of_rows) {
                    return LaunchRouteTopK(RowsOf<decltype(of_rows)>(args.logits), args.logits.size(0),
                                           args.logits.size(1), args.experts.size(1), args.renormalise,
                                           args.experts.mutable_data_ptr<int32_t>(),
                                           args.weights.mutable_data_ptr<float>(), StreamOf(args.logits));
                  }));
}

absl::Status CombineExperts(const CombineExpertsArgs& args) {
  const int64_t rows = args.rows.empty() ? args.y.size(0) : std::ssize(args.rows);
  if (args.y.numel() == 0) return absl::OkStatus();
  Upload upload;
  const int64_t pairs = upload.Add(args.pairs), weights = upload.Add(args.weights), to_rows = upload.Add(args.rows);
  upload.Send(args.y);
  return StatusOf("CombineExperts", ForTypeOf(args.y, [&](auto of_rows) {
                    using T = decltype(of_rows);
                    const CombinedRows<T> combined = {
                        .rows = rows,
                        .width = args.y.size(1),
                        .k = std::ssize(args.pairs) / rows,
                        .x = RowsOf<T>(args.x),
                        .pairs = upload.At<int32_t>(pairs),
                        .weights = upload.At<float>(weights),
                        .shared = RowsOf<T>(args.shared),
                        .shared_logits = RowsOf<T>(args.shared_logits),
                        .to_rows = args.rows.empty() ? nullptr : upload.At<int32_t>(to_rows),
                        .add = args.add,
                        .y = MutableRowsOf<T>(args.y)};
                    return LaunchCombineExperts(combined, StreamOf(args.y));
                  }));
}

}  // namespace lorad::cuda
