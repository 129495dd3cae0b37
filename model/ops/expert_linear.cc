#include "model/ops/expert_linear.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"
#include "model/ops/check_shared_rows.h"
#include "model/ops/cpu_ops.h"
#include "model/ops/cuda_table.h"

namespace lorad {
namespace {

// All weights are packed in one way, or none.
absl::Status CheckWeight(const ArgCheck& check, const ExpertLinearArgs& args, int64_t columns,
                         const LinearWeight& weight) {
  const at::Tensor& stored = weight.weight();
  RETURN_IF_ERROR(check.SameDevice(args.x, "weight", stored));
  if (!args.parts[0].weights[0].packed()) {
    return check.Contiguous("weight", stored, args.x.scalar_type(), {columns, args.x.size(1)});
  }
  const bool multiplies_x = weight.quantized() || stored.scalar_type() == args.x.scalar_type();
  if (weight.packed() && weight.quantization() == args.parts[0].weights[0].quantization() && multiplies_x &&
      weight.out_features() == columns && weight.in_features() == args.x.size(1)) {
    return absl::OkStatus();
  }
  return check.Error("weight",
                     absl::StrCat(ShapeOf(stored), " for ", weight.out_features(), " x ", weight.in_features()),
                     absl::StrCat("packed, ", columns, " x ", args.x.size(1)));
}

absl::Status CheckPart(const ArgCheck& check, const ExpertLinearArgs& args, const ExpertLinearPart& part) {
  if (part.weights.size() + 1 != args.starts.size()) {
    return check.Error("parts", absl::StrCat(part.weights.size(), " weights"),
                       absl::StrCat(args.starts.size() - 1, ", one of each expert"));
  }
  const int64_t columns = part.weights[0].out_features();
  if (part.first_column < 0 || part.first_column + columns > args.y.size(1)) {
    return check.Error("parts", absl::StrCat("columns ", part.first_column, " to ", part.first_column + columns),
                       absl::StrCat("0 to ", args.y.size(1)));
  }
  for (const LinearWeight& weight : part.weights) RETURN_IF_ERROR(CheckWeight(check, args, columns, weight));
  return absl::OkStatus();
}

bool AllBelow(absl::Span<const int32_t> numbers, int64_t lowest, int64_t end) {
  return std::all_of(numbers.begin(), numbers.end(), [&](int32_t n) { return n >= lowest && n < end; });
}

}  // namespace

absl::Status ExpertLinear(const ExpertLinearArgs& args) {
  const ArgCheck check("ExpertLinear");
  RETURN_IF_ERROR(check.Floating("x", args.x));
  const at::ScalarType dtype = args.x.scalar_type();
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.SameDevice(args.x, "y", args.y));
  const int64_t pairs = args.y.size(0);
  if (args.starts.size() < 2 || args.starts.front() != 0 || args.starts.back() != pairs ||
      !std::is_sorted(args.starts.begin(), args.starts.end())) {
    return check.Error("starts", absl::StrCat(args.starts.size(), " entries"),
                       absl::StrCat("ascending from 0 to ", pairs));
  }
  const int64_t rows = static_cast<int64_t>(args.rows.size());
  if (args.rows.empty() ? args.x.size(0) != pairs : rows != pairs || !AllBelow(args.rows, 0, args.x.size(0))) {
    return check.Error("rows", absl::StrCat(rows, " for ", pairs, " pairs"),
                       absl::StrCat("one of each pair, within 0 to ", args.x.size(0) - 1));
  }
  for (const ExpertLinearPart& part : args.parts) RETURN_IF_ERROR(CheckPart(check, args, part));
  return Dispatch("ExpertLinear", args.x, &cpu::ExpertLinear, InstalledCudaOps().expert_linear, args);
}

absl::Status CombineExperts(const CombineExpertsArgs& args) {
  const ArgCheck check("CombineExperts");
  RETURN_IF_ERROR(check.Floating("y", args.y));
  const at::ScalarType dtype = args.y.scalar_type();
  RETURN_IF_ERROR(check.Tensor("y", args.y, dtype, {ArgCheck::kAny, ArgCheck::kAny}));
  RETURN_IF_ERROR(check.Tensor("x", args.x, dtype, {ArgCheck::kAny, args.y.size(1)}));
  RETURN_IF_ERROR(check.SameDevice(args.y, "x", args.x));
  if (!AllBelow(args.rows, 0, args.y.size(0)) || (!args.rows.empty() && args.shared.defined())) {
    return check.Error("rows", absl::StrCat(args.rows.size(), " rows"),
                       absl::StrCat("within 0 to ", args.y.size(0) - 1, ", and nothing shared"));
  }
  const int64_t rows = args.rows.empty() ? args.y.size(0) : std::ssize(args.rows);
  const int64_t choices = std::ssize(args.pairs);
  if (rows == 0 ? choices != 0 : choices % rows != 0 || !AllBelow(args.pairs, INT32_MIN, args.x.size(0))) {
    return check.Error("pairs", absl::StrCat(choices, " for ", rows, " rows"),
                       absl::StrCat("as many of each row, below ", args.x.size(0)));
  }
  if (args.weights.size() != args.pairs.size()) {
    return check.Error("weights", absl::StrCat(args.weights.size()), absl::StrCat(choices, ", one of each pair"));
  }
  RETURN_IF_ERROR(CheckSharedRows(check, args.y, rows, args.shared, args.shared_logits));
  return Dispatch("CombineExperts", args.y, &cpu::CombineExperts, InstalledCudaOps().combine_experts, args);
}

}  // namespace lorad
