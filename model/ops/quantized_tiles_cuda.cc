#include "model/ops/quantized_tiles_cuda.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"
#include "model/ops/compare_forms_cuda.h"
#include "model/ops/cuda/quantized_kernels.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {
namespace {

// Changed by CheckQuantizedTiles and LeaveOutQuantizedTiles alone.
bool& Uses(Quantization quantization) {
  static std::array<bool, std::size(kQuantizedForms) + 1> uses = {true, true, true, true};
  return uses[static_cast<size_t>(quantization)];
}

// x W'^T, so many rows at a time, f32 on the host.
absl::StatusOr<at::Tensor> Multiply(const at::Tensor& x, const LinearWeight& weight, int64_t rows_at_once) {
  at::Tensor y = at::empty({x.size(0), weight.out_features()}, x.options());
  for (int64_t first = 0; first < x.size(0); first += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, x.size(0) - first);
    at::Tensor some = y.narrow(0, first, rows);
    RETURN_IF_ERROR(Linear({x.narrow(0, first, rows), weight, some}));
  }
  return y.to(at::kFloat).cpu();
}

// What speaks against the form at these sizes, or nothing. Both round sums in f32 to bf16, once.
std::optional<std::string> Objection(Quantization quantization, int64_t in, int64_t out, int64_t rows) {
  constexpr double kLimit = 2e-2;
  const float scale = 1.0f / 16;  // results within 4
  const at::Tensor w = DrawnOnDevice(out, in, /*seed=*/8).to(at::kFloat).mul(scale).cpu();
  const LinearWeight on_host = LinearWeight::Quantize(w, quantization);
  const at::Tensor x = DrawnOnDevice(rows, in, /*seed=*/9);
  const LinearWeight weight = LinearWeight::FromStored(on_host.weight().to(x.device()), out, in, quantization);
  const auto multiply = [&](bool tiles) {
    Uses(quantization) = tiles;
    return Multiply(x, weight, tiles ? rows : kFewRows);
  };
  return ObjectionTo([&] { return multiply(true); }, [&] { return multiply(false); }, kLimit);
}

}  // namespace

bool UsesQuantizedTiles(Quantization quantization) { return Uses(quantization); }

std::vector<std::string> CheckQuantizedTiles(std::vector<std::string>* used) {
  struct Case {
    int64_t in, out, rows;
  };
  // Each number of rows that a kernel has, several tiles; one slice of the inputs and many; a panel that lacks columns.
  constexpr Case kCases[] = {{200, 136, 7}, {2056, 8, 8}, {1100, 24, 13}, {136, 40, 32}, {1100, 24, 37}};
  const c10::InferenceMode no_autograd;
  std::vector<std::string> objections;
  for (const Quantization quantization : kQuantizedForms) {
    std::optional<std::string> objection;
    for (const Case& each : kCases) {
      objection = Objection(quantization, each.in, each.out, each.rows);
      if (!objection.has_value()) continue;
      objections.push_back(absl::StrCat(std::string(Name(quantization)), " weights on tensor cores, ", each.rows,
                                        " rows: ", *objection, "; the forms of few and of many rows are used"));
      break;
    }
    Uses(quantization) = !objection.has_value();
    if (used != nullptr && Uses(quantization)) {
      used->push_back(absl::StrCat(std::string(Name(quantization)), " weights on tensor cores"));
    }
  }
  return objections;
}

void LeaveOutQuantizedTiles() {
  for (const Quantization quantization : kQuantizedForms) Uses(quantization) = false;
}

}  // namespace lorad::cuda
