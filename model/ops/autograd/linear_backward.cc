#include "model/ops/autograd/linear_backward.h"

#include <algorithm>

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "model/ops/autograd/in_pieces.h"
#include "model/ops/cpu/f32_panels.h"
#include "model/ops/cpu/panel_kernels.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/transposed_panels.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

// g [R, out], weight [out, in] -> g W [R, in]
at::Tensor OfMatrix(const at::Tensor& g, const at::Tensor& weight) {
  at::Tensor dx = at::empty({g.size(0), weight.size(1)}, g.options());
  const bool cuts_outputs = g.scalar_type() == at::kFloat;  // sums of parts are not rounded to bf16
  InPieces(g.size(0), weight.size(1), weight.size(0), cuts_outputs, [&](const MatmulPiece& piece) {
    at::Tensor to = dx.narrow(0, piece.first_row, piece.rows);
    const at::Tensor from = g.narrow(0, piece.first_row, piece.rows).narrow(1, piece.first_output, piece.outputs);
    const at::Tensor some = weight.narrow(0, piece.first_output, piece.outputs);
    if (piece.first_output == 0) {
      at::mm_out(to, from, some);
    } else {
      to.addmm_(from, some);
    }
  });
  return dx;
}

// A quantised weight has to be unpacked: a few MiB of it at a time, and a piece each.
at::Tensor OfQuantized(const at::Tensor& g, const LinearWeight& weight) {
  constexpr int64_t kUnpackedElements = int64_t{8} << 20;
  const int64_t out = weight.out_features(), in = weight.in_features();
  const at::ScalarType dtype = g.scalar_type();
  if (out * in <= kUnpackedElements) return OfMatrix(g, weight.Dequantized(dtype));
  const int64_t most = std::max<int64_t>(1, kUnpackedElements / (cpu::kPanelColumns * in)) * cpu::kPanelColumns;
  at::Tensor dx = at::zeros({g.size(0), in}, g.options().dtype(at::kFloat));
  for (int64_t first = 0; first < out; first += most) {
    const int64_t outputs = std::min(most, out - first);
    dx.add_(OfMatrix(g.narrow(1, first, outputs), weight.Outputs(first, outputs).Dequantized(dtype)));
  }
  return dx.to(dtype);
}

// What follows is the product of Linear with inputs and outputs exchanged: W^T's panels of some inputs and outputs are
// made where they stay in L2, and multiply all rows.
constexpr int64_t kInputsAtOnce = 2 * cpu::kPanelColumns;  // the products multiply two panels at once
constexpr int64_t kElementsPerRange = 1 << 14;             // packed by one thread
constexpr int64_t kProductsPerRange = 1 << 17;             // 2 to 10 us of one thread

// pack(row, end) for all rows of so many elements.
template <typename Pack>
void PackInRanges(int64_t rows, int64_t elements, const Pack& pack) {
  cpu::ParallelFor(rows, kElementsPerRange / elements + 1, pack);
}

// multiply(input, inputs) for all inputs, each with `rows` x `outputs` products.
template <typename Multiply>
void ForInputs(int64_t rows, int64_t outputs, int64_t in, const Multiply& multiply) {
  const int64_t units = (in + kInputsAtOnce - 1) / kInputsAtOnce, products = rows * outputs * kInputsAtOnce;
  const int64_t piece = CutsPieces() ? std::min(units, PieceRows(products)) : units;
  ItemsInPieces(units, piece, products, [&](int64_t unit, int64_t units_at_once) {
    cpu::ParallelFor(units_at_once, kProductsPerRange / products + 1, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        const int64_t input = (unit + i) * kInputsAtOnce;
        multiply(input, std::min(kInputsAtOnce, in - input));
      }
    });
  });
}

// Of bf16 in panels; g's rows are contiguous.
class OfBf16Panels final {
 public:
  OfBf16Panels(const at::Tensor& g, const LinearWeight& weight)
      : g_(g),
        rows_(g.size(0)),
        out_(weight.out_features()),
        in_(weight.in_features()),
        panels_(static_cast<const uint16_t*>(weight.weight().const_data_ptr())) {}

  at::Tensor Run() {
    if (out_ <= kOutputsAtOnce) {
      at::Tensor dx = at::empty({rows_, in_}, g_.options());
      auto* const to = static_cast<uint16_t*>(dx.mutable_data_ptr());
      MultiplyOutputs(0, out_, [&](const cpu::PanelDotArgs& dot, int64_t input) { cpu::PanelDot(dot, to + input); });
      return dx;
    }
    at::Tensor sums = at::zeros({rows_, in_}, g_.options().dtype(at::kFloat));
    float* const to = sums.mutable_data_ptr<float>();
    for (int64_t first = 0; first < out_; first += kOutputsAtOnce) {
      MultiplyOutputs(first, std::min(kOutputsAtOnce, out_ - first),
                      [&](const cpu::PanelDotArgs& dot, int64_t input) { cpu::AddPanelDot(dot, to + input); });
    }
    return sums.to(g_.scalar_type());
  }

 private:
  static constexpr int64_t kOutputsAtOnce = 4096;  // 128 KiB of a panel of W^T

  // multiply(dot, input) for all inputs: the products with `outputs` outputs from `first` on, for inputs from `input`
  // on.
  template <typename Multiply>
  void MultiplyOutputs(int64_t first, int64_t outputs, const Multiply& multiply) {
    const int64_t packed_stride = cpu::PanelRowFloats(outputs), g_stride = g_.stride(0);
    const uint16_t* const g = static_cast<const uint16_t*>(g_.const_data_ptr()) + first;
    float* const packed = cpu::ThreadScratch(cpu::Scratch::kRows, rows_ * packed_stride);
    PackInRanges(rows_, outputs, [&](int64_t r, int64_t end) {
      cpu::PackPanelRows(g + r * g_stride, g_stride, end - r, outputs, packed + r * packed_stride);
    });
    const uint16_t* const panels = panels_ + first / cpu::kPanelColumns * cpu::PanelElements(in_);
    ForInputs(rows_, outputs, in_, [&](int64_t input, int64_t inputs) {
      auto* const transposed = reinterpret_cast<uint16_t*>(
          cpu::ThreadScratch(cpu::Scratch::kWeights, cpu::Panels(inputs) * cpu::PanelElements(outputs) / 2));
      cpu::TransposePanels({panels, in_, outputs, input, inputs}, transposed);
      multiply({packed, rows_, outputs, transposed, inputs, in_}, input);
    });
  }

  const at::Tensor& g_;
  const int64_t rows_;
  const int64_t out_;
  const int64_t in_;
  const uint16_t* const panels_;
};

// Of f32, in panels or in rows; g's rows are contiguous.
at::Tensor OfF32(const at::Tensor& g, const LinearWeight& weight) {
  constexpr int64_t kOutputsAtOnce = 4 * cpu::kF32Block;  // 256 KiB of two panels of W^T
  const int64_t rows = g.size(0), out = weight.out_features(), in = weight.in_features();
  at::Tensor dx = at::empty({rows, in}, g.options());
  float* const to = dx.mutable_data_ptr<float>();
  for (int64_t first = 0; first < out; first += kOutputsAtOnce) {
    const int64_t outputs = std::min(kOutputsAtOnce, out - first), packed_stride = cpu::PanelRowFloats(outputs);
    const float* const of_outputs = g.const_data_ptr<float>() + first;
    float* const packed = cpu::ThreadScratch(cpu::Scratch::kRows, rows * packed_stride);
    PackInRanges(rows, outputs, [&](int64_t r, int64_t end) {
      cpu::PackF32Rows(of_outputs + r * g.stride(0), g.stride(0), end - r, outputs, packed + r * packed_stride);
    });
    const float* const w = weight.weight().const_data_ptr<float>() + first * in;  // `first` begins a panel
    ForInputs(rows, outputs, in, [&](int64_t input, int64_t inputs) {
      float* const transposed = cpu::ThreadScratch(cpu::Scratch::kWeights, cpu::F32WeightElements(inputs, outputs));
      const cpu::F32TransposeArgs some = {w, in, outputs, input, inputs};
      if (weight.packed()) {
        cpu::TransposeF32Panels(some, transposed);
      } else {
        cpu::TransposeF32Rows(some, transposed);
      }
      cpu::F32Products({{packed, packed_stride, rows}, outputs, {transposed, outputs, inputs}, in, /*add=*/first > 0},
                       to + input);
    });
  }
  return dx;
}

}  // namespace

at::Tensor LinearBackward(const at::Tensor& g, const LinearWeight& weight) {
  if (weight.quantized()) return OfQuantized(g, weight);
  const bool is_f32 = weight.weight().is_cpu() && weight.weight().scalar_type() == at::kFloat;
  if (!weight.packed() && !is_f32) return OfMatrix(g, weight.weight());
  if (g.size(0) == 0 || weight.out_features() == 0) return at::zeros({g.size(0), weight.in_features()}, g.options());
  const at::Tensor of_rows = g.stride(1) == 1 ? g : g.contiguous();
  return is_f32 ? OfF32(of_rows, weight) : OfBf16Panels(of_rows, weight).Run();
}

}  // namespace lorad
