#include "model/ops/autograd/row_ops.h"

#include <torch/csrc/autograd/custom_function.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include "model/base/guarded.h"
#include "model/ops/activate.h"
#include "model/ops/autograd/in_pieces.h"
#include "model/ops/autograd/linear_backward.h"
#include "model/ops/gated_activation.h"
#include "model/ops/layer_norm.h"
#include "model/ops/rms_norm.h"

namespace lorad {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr const char* kTanh = "tanh";
constexpr const char* kErf = "none";

at::Tensor ComputeLinear(const at::Tensor& x, const LinearWeight& weight) {
  at::Tensor y = at::empty({x.size(0), weight.out_features()}, x.options());
  InPieces(x.size(0), weight.in_features(), weight.out_features(), /*cuts_outputs=*/true,
           [&](const MatmulPiece& piece) {
             at::Tensor part = y.narrow(0, piece.first_row, piece.rows).narrow(1, piece.first_output, piece.outputs);
             ThrowIfError(Linear(
                 {x.narrow(0, piece.first_row, piece.rows), weight.Outputs(piece.first_output, piece.outputs), part}));
           });
  return y;
}

at::Tensor ComputeRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  at::Tensor y = at::empty_like(x);
  ThrowIfError(RmsNorm({x, weight, eps, nullptr, y}));
  return y;
}

at::Tensor ComputeLayerNorm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  at::Tensor y = at::empty_like(x);
  ThrowIfError(LayerNorm({x, weight, bias, eps, nullptr, y}));
  return y;
}

at::Tensor ComputeActivation(const at::Tensor& x, Activation activation) {
  at::Tensor y = at::empty_like(x);
  ThrowIfError(Activate({x, activation, y}));
  return y;
}

at::Tensor ComputeGatedActivation(const at::Tensor& gate_up, Activation activation) {
  at::Tensor y = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
  ThrowIfError(GatedActivation({gate_up, activation, y}));
  return y;
}

at::Tensor ActivationInF32(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGeluTanh:
      return at::gelu(x, kTanh);
    case Activation::kGelu:
      return at::gelu(x, kErf);
    case Activation::kRelu:
      return at::relu(x);
  }
  return x;
}

// g times the derivative at x, all f32
at::Tensor ActivationBackward(const at::Tensor& g, const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu_backward(g, x);
    case Activation::kGeluTanh:
      return at::gelu_backward(g, x, kTanh);
    case Activation::kGelu:
      return at::gelu_backward(g, x, kErf);
    case Activation::kRelu:
      return g * at::gt(x, 0);
  }
  return g;
}

// dx of a norm whose rows were centred, or not, and divided by `scale`: `n` [R, H] normed rows, `gw` [R, H] = g w, f32.
at::Tensor NormBackward(const at::Tensor& gw, const at::Tensor& n, const at::Tensor& inverse, bool centred) {
  at::Tensor dx = gw - n * (gw * n).mean(-1, /*keepdim=*/true);
  if (centred) dx = dx - gw.mean(-1, /*keepdim=*/true);
  return dx * inverse;
}

at::Tensor Weighted(const at::Tensor& g, const at::Tensor& weight) {
  const at::Tensor wide = g.to(at::kFloat);
  return weight.defined() ? wide * weight.to(at::kFloat) : wide;
}

// The gradients of a norm's weight and bias [H], where they are wanted: sums over the rows of g n and g.
at::Tensor OfWeight(AutogradContext* context, const at::Tensor& g, const at::Tensor& n) {
  if (!context->needs_input_grad(1)) return at::Tensor();
  return (g.to(at::kFloat) * n).sum(0).to(context->saved_data["weight"].toTensor().scalar_type());
}

at::Tensor OfBias(AutogradContext* context, const at::Tensor& g) {
  return context->needs_input_grad(2) ? g.to(at::kFloat).sum(0).to(g.scalar_type()) : at::Tensor();
}

bool IsTrained(const at::Tensor& parameter) { return parameter.defined() && NeedsGradient(parameter); }

struct LinearFunction : Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const LinearWeight& weight) {
    context->saved_data["weight"] = weight.weight();
    context->saved_data["out"] = weight.out_features();
    context->saved_data["in"] = weight.in_features();
    context->saved_data["quantization"] = static_cast<int64_t>(weight.quantization());
    return ComputeLinear(x, weight);
  }
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    const auto weight = LinearWeight::FromStored(
        context->saved_data["weight"].toTensor(), context->saved_data["out"].toInt(), context->saved_data["in"].toInt(),
        static_cast<Quantization>(context->saved_data["quantization"].toInt()));
    return {LinearBackward(g[0], weight), at::Tensor()};
  }
};

struct RmsNormFunction : Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    context->save_for_backward({x});
    context->saved_data["weight"] = weight;
    context->saved_data["eps"] = eps;
    return ComputeRmsNorm(x, weight, eps);
  }
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    const at::Tensor stored = context->get_saved_variables()[0];
    const at::Tensor x = stored.to(at::kFloat);
    const at::Tensor inverse = at::rsqrt((x * x).mean(-1, /*keepdim=*/true) + context->saved_data["eps"].toDouble());
    const at::Tensor gw = Weighted(g[0], context->saved_data["weight"].toTensor()), n = x * inverse;
    return {NormBackward(gw, n, inverse, /*centred=*/false).to(stored.scalar_type()), OfWeight(context, g[0], n),
            at::Tensor()};
  }
};

struct LayerNormFunction : Function<LayerNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, double eps) {
    context->save_for_backward({x});
    context->saved_data["weight"] = weight;
    context->saved_data["eps"] = eps;
    return ComputeLayerNorm(x, weight, bias, eps);
  }
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    const at::Tensor stored = context->get_saved_variables()[0];
    const at::Tensor wide = stored.to(at::kFloat);
    const at::Tensor x = wide - wide.mean(-1, /*keepdim=*/true);
    const at::Tensor inverse = at::rsqrt((x * x).mean(-1, /*keepdim=*/true) + context->saved_data["eps"].toDouble());
    const at::Tensor gw = Weighted(g[0], context->saved_data["weight"].toTensor()), n = x * inverse;
    return {NormBackward(gw, n, inverse, /*centred=*/true).to(stored.scalar_type()), OfWeight(context, g[0], n),
            OfBias(context, g[0]), at::Tensor()};
  }
};

Activation SavedActivation(AutogradContext* context) {
  return static_cast<Activation>(context->saved_data["activation"].toInt());
}

struct ActivationFunction : Function<ActivationFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Activation activation) {
    context->save_for_backward({x});
    context->saved_data["activation"] = static_cast<int64_t>(activation);
    return ComputeActivation(x, activation);
  }
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    const at::Tensor x = context->get_saved_variables()[0];
    const at::Tensor dx = ActivationBackward(g[0].to(at::kFloat), x.to(at::kFloat), SavedActivation(context));
    return {dx.to(x.scalar_type()), at::Tensor()};
  }
};

struct GatedActivationFunction : Function<GatedActivationFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_up, Activation activation) {
    context->save_for_backward({gate_up});
    context->saved_data["activation"] = static_cast<int64_t>(activation);
    return ComputeGatedActivation(gate_up, activation);
  }
  static variable_list backward(AutogradContext* context, const variable_list& g) {
    const at::Tensor gate_up = context->get_saved_variables()[0];
    const Activation activation = SavedActivation(context);
    const int64_t width = gate_up.size(1) / 2;
    const at::Tensor gate = gate_up.narrow(1, 0, width).to(at::kFloat);
    const at::Tensor up = gate_up.narrow(1, width, width).to(at::kFloat);
    const at::Tensor wide = g[0].to(at::kFloat);
    const at::Tensor d_gate = ActivationBackward(wide * up, gate, activation);
    const at::Tensor d_up = wide * ActivationInF32(gate, activation);
    return {at::cat({d_gate, d_up}, 1).to(gate_up.scalar_type()), at::Tensor()};
  }
};

}  // namespace

bool NeedsGradient(const at::Tensor& x) { return at::GradMode::is_enabled() && x.requires_grad(); }

at::Tensor LinearOf(const at::Tensor& x, const LinearWeight& weight) {
  return NeedsGradient(x) ? LinearFunction::apply(x, weight) : ComputeLinear(x, weight);
}

at::Tensor RmsNormOf(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const bool recorded = NeedsGradient(x) || IsTrained(weight);
  return recorded ? RmsNormFunction::apply(x, weight, eps) : ComputeRmsNorm(x, weight, eps);
}

at::Tensor LayerNormOf(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  const bool recorded = NeedsGradient(x) || IsTrained(weight) || IsTrained(bias);
  return recorded ? LayerNormFunction::apply(x, weight, bias, eps) : ComputeLayerNorm(x, weight, bias, eps);
}

at::Tensor ActivationOf(const at::Tensor& x, Activation activation) {
  return NeedsGradient(x) ? ActivationFunction::apply(x, activation) : ComputeActivation(x, activation);
}

at::Tensor GatedActivationOf(const at::Tensor& gate_up, Activation activation) {
  return NeedsGradient(gate_up) ? GatedActivationFunction::apply(gate_up, activation)
                                : ComputeGatedActivation(gate_up, activation);
}

}  // namespace lorad
