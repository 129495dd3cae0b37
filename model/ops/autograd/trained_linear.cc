#include "model/ops/autograd/trained_linear.h"

#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "model/ops/autograd/in_pieces.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// fn(first, count) for outputs that cover W's; `products` of a row, an input and an output.
template <typename Fn>
void ForOutputs(const at::Tensor& x, const at::Tensor& weight, int64_t products, const Fn& fn) {
  const int64_t of_output = products * x.numel();
  ItemsInPieces(weight.size(0), PieceOutputs(of_output), of_output, fn);
}

struct TrainedLinearFunction : torch::autograd::Function<TrainedLinearFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight) {
    at::Tensor y = at::empty({x.size(0), weight.size(0)}, x.options());
    ForOutputs(x, weight, 1, [&](int64_t first, int64_t count) {
      y.narrow(1, first, count).copy_(at::linear(x, weight.narrow(0, first, count)));
    });
    context->save_for_backward({x, weight});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& of_y) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &g = of_y[0];
    const bool for_x = context->needs_input_grad(0), for_weight = context->needs_input_grad(1);
    // A sum over pieces is not rounded in between.
    const at::ScalarType wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    at::Tensor dx = for_x ? at::zeros(x.sizes(), x.options().dtype(wide)) : at::Tensor();
    at::Tensor dw = for_weight ? at::empty_like(weight) : at::Tensor();
    ForOutputs(x, weight, (for_x ? 1 : 0) + (for_weight ? 1 : 0), [&](int64_t first, int64_t count) {
      const at::Tensor of_piece = g.narrow(1, first, count);
      if (for_x) dx.addmm_(of_piece.to(wide), weight.narrow(0, first, count).to(wide));
      if (for_weight) dw.narrow(0, first, count).copy_(at::mm(of_piece.t(), x));
    });
    return {for_x ? dx.to(x.scalar_type()) : dx, dw};
  }
};

}  // namespace

at::Tensor TrainedLinear(const at::Tensor& x, const at::Tensor& weight) {
  return TrainedLinearFunction::apply(x, weight);
}

}  // namespace lorad
