#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/neg.h>

#include "model/ops/autograd/head_attention.h"
#include "model/ops/autograd/heads.h"
#include "model/ops/cpu/parallel.h"
#include "model/ops/cpu/row_kernels.h"

namespace lorad {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct RotateFunction : torch::autograd::Function<RotateFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->saved_data["cos"] = cos;
    context->saved_data["sin"] = sin;
    return Rotate(x, cos, sin);
  }

  // The same by the opposite angle.
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    const at::Tensor cos = context->saved_data["cos"].toTensor(), sin = context->saved_data["sin"].toTensor();
    return {Rotate(g[0].contiguous(), cos, at::neg(sin)), at::Tensor(), at::Tensor()};
  }

  static at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    constexpr int64_t kNumbersPerRange = 1 << 13;
    at::Tensor y = at::empty(x.sizes(), x.options());
    const int64_t heads = x.size(1), dim = x.size(2), half = cos.size(1);
    const Heads from = HeadsOf(x), to = HeadsOf(y);
    const float* const of_cos = cos.const_data_ptr<float>();
    const float* const of_sin = sin.const_data_ptr<float>();
    cpu::ParallelFor(x.size(0), kNumbersPerRange / (heads * dim) + 1, [&](int64_t row, int64_t end) {
      for (; row < end; ++row) {
        for (int64_t h = 0; h < heads; ++h) {
          cpu::RotateRow(from.At(row, h), of_cos + row * half, of_sin + row * half, half, dim, to.At(row, h));
        }
      }
    });
    return y;
  }
};

}  // namespace

at::Tensor RotateRowsOfHeads(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  return RotateFunction::apply(WithHeadsTogether(x), cos.contiguous(), sin.contiguous());
}

}  // namespace lorad
