#include "model/ops/quantized_tiles_cuda.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include "absl/strings/str_cat.h"
#include "model/base/round_up.h"
#include "model/base/status_macros.h"
#include "model/ops/compare_forms_cuda.h"
#include "model/ops/cpu/quantized_panels.h"
#include "model/ops/cuda/quantized_tiles.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {
namespace {

// Changed by CheckQuantizedTiles and LeaveOutQuantizedTiles alone.
bool& Uses(Quantization quantization) {
  static std::array<bool, std::size(kQuantizedForms) + 1> uses = {true, true, true, true};
  return uses[static_cast<size_t>(quantization)];
}

std::string_view NameOf(Quantization quantization) {
  return quantization == Quantization::kInt8 ? "int8" : quantization == Quantization::kInt4 ? "int4" : "fp8";
}

// Panels on the current device, of numbers such that results of these inputs are within 4: drawn as they lie, since
// what quantises is not in the library.
at::Tensor DrawnPanels(Quantization quantization, int64_t out, int64_t in) {
  const int64_t panel_bytes = cpu::QuantizedPanelBytes(quantization, in);
  at::Tensor panels = at::empty({CeilDiv(out, cpu::kPanelColumns), panel_bytes}, at::kByte);
  auto* const bytes = panels.mutable_data_ptr<uint8_t>();
  uint64_t seed = 8;
  for (int64_t i = 0; i < panels.numel(); ++i) {
    seed = NextSeed(seed);
    bytes[i] = static_cast<uint8_t>(seed >> 56);
    if (quantization == Quantization::kFp8) bytes[i] &= 0xBF;  // exponents of 2^0 at most
  }
  const bool is_int4 = quantization == Quantization::kInt4;
  const int64_t factors = quantization == Quantization::kFp8 ? 1 : QuantizedGroups(in);
  for (int64_t panel = 0; panel < panels.size(0); ++panel) {
    for (int64_t g = 0; g < factors; ++g) {
      uint8_t* const to = bytes + panel * panel_bytes + g * cpu::FactorStride(quantization);
      for (int64_t c = 0; c < cpu::kPanelColumns; ++c) {
        const float largest = quantization == Quantization::kInt8 ? 127.0f : is_int4 ? 8.0f : 1.875f;
        const float scale = static_cast<float>(g % 3 + c % 5 + 1) / (128.0f * largest);
        const c10::BFloat16 scale_and_zero[] = {scale, scale * static_cast<float>(c % 4)};
        static_assert(sizeof(scale_and_zero) == sizeof(scale));
        std::memcpy(to + c * 4, is_int4 ? static_cast<const void*>(scale_and_zero) : &scale, sizeof(scale));
      }
    }
  }
  return panels.to(at::Device(at::kCUDA));
}

// What speaks against the form at these sizes, or nothing. Both round sums in f32 to bf16, once.
std::optional<std::string> Objection(Quantization quantization, int64_t in, int64_t out, int64_t rows) {
  constexpr double kLimit = 2e-2;
  const at::Tensor panels = DrawnPanels(quantization, out, in), x = DrawnOnDevice(rows, in, /*seed=*/9);
  const QuantizedColumns weight = {quantization, in, out, DataOf<uint8_t>(panels)};
  const auto result = [&](const auto& multiply) -> absl::StatusOr<at::Tensor> {
    at::Tensor y = at::empty({rows, out}, x.options());
    y.fill_(7.0);  // its memory may be the other form's, with the right numbers in it
    RETURN_IF_ERROR(StatusOf("Linear", multiply(y)));
    return y.to(at::kFloat).cpu();
  };
  const auto tiles = [&](at::Tensor& y) { return MultiplyTiles(x, weight, y); };
  const auto few_at_once = [&](at::Tensor& y) {
    cudaError_t error = cudaSuccess;
    for (int64_t first = 0; first < rows && error == cudaSuccess; first += kFewRows) {
      const int64_t count = std::min(kFewRows, rows - first);
      const at::Tensor some_x = x.narrow(0, first, count);
      at::Tensor some = y.narrow(0, first, count);
      error = LaunchQuantizedDot(weight, count, RowsOf<__nv_bfloat16>(some_x), MutableRowsOf<__nv_bfloat16>(some),
                                 StreamOf(x));
    }
    return error;
  };
  return ObjectionTo([&] { return result(tiles); }, [&] { return result(few_at_once); }, kLimit);
}

}  // namespace

cudaError_t MultiplyTiles(const at::Tensor& x, const QuantizedColumns& weight, at::Tensor& y) {
  const int64_t rows = x.size(0);
  const at::Tensor scratch = at::empty({QuantizedTilesScratch(weight, rows)}, x.options().dtype(at::kFloat));
  return LaunchQuantizedTiles(weight, rows, RowsOf<__nv_bfloat16>(x), MutableRowsOf<__nv_bfloat16>(y),
                              static_cast<float*>(scratch.mutable_data_ptr()), StreamOf(x));
}

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
      objections.push_back(absl::StrCat(std::string(NameOf(quantization)), " weights on tensor cores, ", each.rows,
                                        " rows: ", *objection, "; the forms of few and of many rows are used"));
      break;
    }
    Uses(quantization) = !objection.has_value();
    if (used != nullptr && Uses(quantization)) {
      used->push_back(absl::StrCat(std::string(NameOf(quantization)), " weights on tensor cores"));
    }
  }
  return objections;
}

void LeaveOutQuantizedTiles() {
  for (const Quantization quantization : kQuantizedForms) Uses(quantization) = false;
}

}  // namespace lorad::cuda
