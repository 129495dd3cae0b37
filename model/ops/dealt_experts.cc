#include "model/ops/dealt_experts.h"

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/check_shared_rows.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

absl::Status CheckPart(const ArgCheck& check, const DealtLinearArgs& args, const DealtLinearPart& part) {
  const ExpertWeights& of = part.weights;
  RETURN_IF_ERROR(check.SameDevice(args.x, "weight", of.weights().front().weight()));
  if (of.experts() + 1 != args.starts.size(0)) {
    return check.Error("parts", absl::StrCat(of.experts(), " weights"),
                       absl::StrCat(args.starts.size(0) - 1, ", one of each expert"));
  }
  const bool multiplies_x = of.quantization() != Quantization::kNone || of.dtype() == args.x.scalar_type();
  if (!multiplies_x || of.in_features() != args.x.size(1) ||
      of.quantization() != args.parts[0].weights.quantization()) {
    return check.Error("parts", absl::StrCat("a weight of ", of.in_features(), " inputs"),
                       absl::StrCat(args.x.size(1), " inputs, of x's type, alike in all parts"));
  }
  if (part.first_column < 0 || part.first_column + of.out_features() > args.y.size(1)) {
    return check.Error("parts",
                       absl::StrCat("columns ", part.first_column, " to ", part.first_column + of.out_features()),
                       absl::StrCat("0 to ", args.y.size(1)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DealToExperts(const DealToExpertsArgs& args) {
  const ArgCheck check("DealToExperts");
  RETURN_IF_ERROR(check.Contiguous("experts", args.experts, at::kInt, {ArgCheck::kAny, ArgCheck::kAny}));
  const int64_t rows = args.experts.size(0), k = args.experts.size(1);
  RETURN_IF_ERROR(check.Contiguous("weights", args.weights, at::kFloat, {rows, k}));
  RETURN_IF_ERROR(check.Contiguous("starts", args.dealt.starts, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Contiguous("rows", args.dealt.rows, at::kInt, {rows * k}));
  RETURN_IF_ERROR(check.Contiguous("pairs", args.dealt.pairs, at::kInt, {rows, k}));
  RETURN_IF_ERROR(check.Contiguous("weights of pairs", args.dealt.weights, at::kFloat, {rows, k}));
  if (args.dealt.starts.size(0) < 2) return check.Error("starts", "no experts", "1 or more");
  for (const at::Tensor* beside :
       {&args.weights, &args.dealt.starts, &args.dealt.rows, &args.dealt.pairs, &args.dealt.weights}) {
    RETURN_IF_ERROR(check.SameDevice(args.experts, "where the rows go", *beside));
  }
  return Dispatch("DealToExperts", args.experts, &cpu::DealToExperts, InstalledCudaOps().deal_to_experts, args);
}

absl::Status DealtLinear(const DealtLinearArgs& args) {
  constexpr size_t kMostParts = 2;
  const ArgCheck check("DealtLinear");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  const at::ScalarType dtype = args.x.scalar_type();
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "y", args.y));
  RETURN_IF_ERROR(check.Contiguous("starts", args.starts, at::kInt, {ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "starts", args.starts));
  const int64_t pairs = args.y.size(0);
  if (args.rows.defined()) {
    RETURN_IF_ERROR(check.Contiguous("rows", args.rows, at::kInt, {pairs}));
    RETURN_IF_ERROR(check.SameDevice(args.x, "rows", args.rows));
  } else if (args.x.size(0) != pairs) {
    return check.Error("rows", "none", absl::StrCat("one of each of ", pairs, " pairs"));
  }
  if (args.parts.empty() || args.parts.size() > kMostParts) {
    return check.Error("parts", absl::StrCat(args.parts.size()), "1 or 2");
  }
  if (args.most_rows < 1 && pairs > 0) return check.Error("most_rows", absl::StrCat(args.most_rows), "1 or more");
  for (const DealtLinearPart& part : args.parts) RETURN_IF_ERROR(CheckPart(check, args, part));
  return Dispatch("DealtLinear", args.x, &cpu::DealtLinear, InstalledCudaOps().dealt_linear, args);
}

absl::Status CombineDealt(const CombineDealtArgs& args) {
  const ArgCheck check("CombineDealt");
  RETURN_IF_ERROR(check.Floating("y", args.y));
  const at::ScalarType dtype = args.y.scalar_type();
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  const int64_t rows = args.rows.defined() ? args.rows.size(0) : args.y.size(0), width = args.y.size(1);
  if (args.rows.defined()) {
    RETURN_IF_ERROR(check.Contiguous("rows", args.rows, at::kInt, {ArgCheck::kAny}));
    RETURN_IF_ERROR(check.SameDevice(args.y, "rows", args.rows));
    if (args.shared.defined()) return check.Error("shared", "rows of all", "none beside `rows`");
  }
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, width}));
  RETURN_IF_ERROR(check.Contiguous("pairs", args.pairs, at::kInt, {rows, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Contiguous("weights", args.weights, at::kFloat, {rows, args.pairs.size(1)}));
  for (const at::Tensor* beside : {&args.x, &args.pairs, &args.weights}) {
    RETURN_IF_ERROR(check.SameDevice(args.y, "a tensor", *beside));
  }
  RETURN_IF_ERROR(CheckSharedRows(check, args.y, rows, args.shared, args.shared_logits));
  return Dispatch("CombineDealt", args.y, &cpu::CombineDealt, InstalledCudaOps().combine_dealt, args);
}

bool DealsOnDevice(const DealsOnDeviceArgs& args) {
  const auto deals = InstalledCudaOps().deals_on_device;
  return args.device.is_cuda() && deals != nullptr && deals(args);
}

}  // namespace lorad
