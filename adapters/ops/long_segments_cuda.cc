#include "adapters/ops/long_segments_cuda.h"

#include <cstdint>
#include <optional>
#include <utility>

#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "adapters/ops/cuda_ops.h"
#include "model/base/status_macros.h"
#include "model/ops/compare_forms_cuda.h"

namespace lorad::cuda {
namespace {

// Changed by CheckLongSegments and LeaveOutFormsOfDevice alone.
bool& Uses() {
  static bool uses = true;
  return uses;
}

// What a segment of rows gets from a pair of odd sizes, f32 on the host.
absl::StatusOr<at::Tensor> AddTo(int64_t rows, bool long_form) {
  constexpr int64_t kIn = 2056, kRanks = 27, kOut = 136;  // in four slices, the last step cut
  Uses() = long_form;
  const at::Tensor x = DrawnOnDevice(rows, kIn, /*seed=*/5), a = DrawnOnDevice(kRanks, kIn, /*seed=*/6);
  const at::Tensor b_t = DrawnOnDevice(kRanks, kOut, /*seed=*/7);
  at::Tensor y = at::zeros({rows, kOut}, x.options());
  SlotWeights pair;
  pair.a = static_cast<const std::byte*>(a.const_data_ptr());
  pair.b_t = static_cast<const std::byte*>(b_t.const_data_ptr());
  pair.rank = kRanks;
  pair.scale = 1.0f / 128;  // results within 2
  RowSegments segments;
  segments.starts = {0, static_cast<int32_t>(rows)};
  segments.term_starts = {0, 1};
  segments.terms = {{.slot = 0, .scale = 1.0f}};
  const SegmentedGemmPart part = {&pair, 0, kOut};
  RETURN_IF_ERROR(SegmentedGemm({.x = x, .y = y, .parts = {&part, 1}, .num_slots = 1, .rows = segments}));
  return y.to(at::kFloat).cpu();
}

}  // namespace

bool UsesLongSegments() { return Uses(); }

std::vector<std::string> CheckLongSegments() {
  constexpr double kLimit = 2e-2;  // both round sums in f32 to bf16, once
  constexpr int64_t kRows = 77;    // a whole tile and a part of one
  const c10::InferenceMode no_autograd;
  const std::optional<std::string> objection =
      ObjectionTo([] { return AddTo(kRows, true); }, [] { return AddTo(kRows, false); }, kLimit);
  Uses() = !objection.has_value();
  if (!objection.has_value()) return {};
  return {absl::StrCat("adapters' long segments on tensor cores: ", *objection, "; the form of short ones is used")};
}

std::vector<std::string> CheckFormsOfDevice(std::vector<std::string>* used) {
  std::vector<std::string> objections = CheckFastForms(used);
  for (std::string& objection : CheckLongSegments()) objections.push_back(std::move(objection));
  if (used != nullptr && Uses()) used->emplace_back("adapters' long segments on tensor cores");
  return objections;
}

void LeaveOutFormsOfDevice() {
  LeaveOutFastForms();
  Uses() = false;
}

}  // namespace lorad::cuda
