#include "adapters/train/optimizer.h"

#include <algorithm>
#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros_like.h>

#include "absl/strings/str_cat.h"
#include "adapters/train/adamw.h"
#include "model/base/check.h"
#include "model/device_step.h"
#include "model/ops/autograd/in_pieces.h"
#include "model/ops/pieces.h"

namespace lorad {
namespace {

constexpr int64_t kUpdateProducts = 64;      // what an element's update costs: it waits for memory
constexpr int64_t kReadProducts = 8;         // what reading it costs
constexpr double kEmbeddingPairRate = 1e-6;  // peft's loraplus_lr_embedding

// fn(first, count) for pieces that cover the elements of a leaf; those of a saved head are hundreds of milliseconds.
template <typename Fn>
void ForElements(int64_t elements, int64_t products_an_element, const Fn& fn) {
  ItemsInPieces(elements, kPieceProducts / products_an_element, products_an_element, fn);
}

double SquaresOf(const at::Tensor& gradient) {
  const at::Tensor values = gradient.contiguous();
  double squares = 0;
  ForElements(values.numel(), kReadProducts, [&](int64_t first, int64_t count) {
    squares += SumOfSquares(values.const_data_ptr<float>() + first, count);
  });
  return squares;
}

}  // namespace

Optimizer::Optimizer(const OptimizerConfig& config, std::vector<NamedLeaf> leaves)
    : config_(config), leaves_(std::move(leaves)), on_device_(!leaves_.empty() && !leaves_[0].tensor.is_cpu()) {
  const bool needs_first = config_.kind == OptimizerKind::kAdamW || config_.momentum != 0;
  for (const NamedLeaf& leaf : leaves_) {
    if (needs_first) first_.push_back(at::zeros_like(leaf.tensor.detach()));
    if (config_.kind == OptimizerKind::kAdamW) second_.push_back(at::zeros_like(leaf.tensor.detach()));
  }
}

absl::StatusOr<double> Optimizer::Step(double learning_rate) {
  const at::NoGradGuard frozen;
  const double norm = GradientNorm();
  if (!std::isfinite(norm)) {
    return absl::DataLossError(absl::StrCat("gradient norm: ", norm, "; limit: finite; lower the learning rate"));
  }
  constexpr double kTorchEpsilon = 1e-6;
  const double clip = config_.max_grad_norm > 0 ? std::min(1.0, config_.max_grad_norm / (norm + kTorchEpsilon)) : 1.0;
  ++steps_;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    at::Tensor leaf = leaves_[i].tensor;
    at::Tensor gradient = leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf);
    const LeafSettings settings = SettingsOf(leaves_[i], learning_rate);
    if (config_.kind == OptimizerKind::kAdamW && !on_device_) {
      AdamW(i, gradient, AdamWStepOf(settings, clip));
    } else {
      BeginPiece(kUpdateProducts * leaf.numel());
      if (clip < 1.0) gradient.mul_(clip);
      if (config_.kind == OptimizerKind::kAdamW) {
        AdamWOnDevice(i, gradient, AdamWStepOf(settings, /*clip=*/1.0));
      } else {
        Sgd(i, gradient, settings);
      }
    }
    leaf.mutable_grad() = at::Tensor();
  }
  return norm;
}

// All leaves' norms come from a device by one copy: the only wait of a step.
double Optimizer::GradientNorm() const {
  if (!on_device_) {
    double squares = 0;
    for (const NamedLeaf& leaf : leaves_) {
      if (leaf.tensor.grad().defined()) squares += SquaresOf(leaf.tensor.grad());
    }
    return std::sqrt(squares);
  }
  std::vector<at::Tensor> norms;
  for (const NamedLeaf& leaf : leaves_) {
    if (leaf.tensor.grad().defined()) norms.push_back(at::linalg_vector_norm(leaf.tensor.grad()).view({1}));
  }
  if (norms.empty()) return 0;
  const at::Tensor of_leaves = ToHost(at::cat(norms, 0).to(at::kDouble));
  const double* const values = of_leaves.const_data_ptr<double>();
  double squares = 0;
  for (int64_t i = 0; i < of_leaves.numel(); ++i) squares += values[i] * values[i];
  return std::sqrt(squares);
}

Optimizer::LeafSettings Optimizer::SettingsOf(const NamedLeaf& leaf, double learning_rate) const {
  LeafSettings settings{learning_rate, config_.weight_decay};
  if (!config_.lora_plus_ratio.has_value()) return settings;
  if (leaf.of_embedding_pair) {  // a rate of its own, scheduled as the others'
    const double factor = config_.learning_rate > 0 ? learning_rate / config_.learning_rate : 0.0;
    settings.learning_rate = kEmbeddingPairRate * factor;
  } else if (leaf.is_b || leaf.tensor.dim() == 1) {
    settings.learning_rate *= *config_.lora_plus_ratio;
  }
  if (leaf.is_base_vector) settings.weight_decay = 0.0;
  return settings;
}

AdamWStep Optimizer::AdamWStepOf(const LeafSettings& settings, double clip) const {
  const double steps = static_cast<double>(steps_);
  return {
      .gradient_factor = static_cast<float>(clip),
      .decayed = static_cast<float>(1.0 - settings.learning_rate * settings.weight_decay),
      .new_of_first = static_cast<float>(1.0 - config_.beta1),
      .beta2 = static_cast<float>(config_.beta2),
      .new_of_second = static_cast<float>(1.0 - config_.beta2),
      .root = static_cast<float>(std::sqrt(1.0 - std::pow(config_.beta2, steps))),
      .epsilon = static_cast<float>(config_.epsilon),
      .step_size = static_cast<float>(settings.learning_rate / (1.0 - std::pow(config_.beta1, steps))),
  };
}

void Optimizer::AdamW(size_t leaf, const at::Tensor& gradient, const AdamWStep& step) {
  at::Tensor weight = leaves_[leaf].tensor;
  LORAD_CHECK(weight.is_contiguous());
  const at::Tensor of_weight = gradient.contiguous();
  ForElements(weight.numel(), kUpdateProducts, [&](int64_t first, int64_t count) {
    UpdateAdamW(step, of_weight.const_data_ptr<float>() + first, count, weight.mutable_data_ptr<float>() + first,
                first_[leaf].mutable_data_ptr<float>() + first, second_[leaf].mutable_data_ptr<float>() + first);
  });
}

// The same by LibTorch's operators.
void Optimizer::AdamWOnDevice(size_t leaf, const at::Tensor& gradient, const AdamWStep& step) {
  at::Tensor weight = leaves_[leaf].tensor;
  weight.mul_(step.decayed);
  first_[leaf].lerp_(gradient, step.new_of_first);
  second_[leaf].mul_(step.beta2).addcmul_(gradient, gradient, step.new_of_second);
  weight.addcdiv_(first_[leaf], second_[leaf].sqrt().div_(step.root).add_(step.epsilon), -step.step_size);
}

void Optimizer::Sgd(size_t leaf, const at::Tensor& gradient, const LeafSettings& settings) {
  at::Tensor weight = leaves_[leaf].tensor;
  at::Tensor direction = settings.weight_decay == 0 ? gradient : gradient.add(weight, settings.weight_decay);
  // torch begins with the first gradient, which a momentum of zero gives too.
  if (config_.momentum != 0) direction = first_[leaf].mul_(config_.momentum).add_(direction);
  weight.add_(direction, -settings.learning_rate);
}

std::vector<std::pair<std::string, at::Tensor>> Optimizer::State() const {
  std::vector<std::pair<std::string, at::Tensor>> state;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    if (i < first_.size()) state.emplace_back(absl::StrCat("optimizer.first.", leaves_[i].name), first_[i]);
    if (i < second_.size()) state.emplace_back(absl::StrCat("optimizer.second.", leaves_[i].name), second_[i]);
  }
  return state;
}

}  // namespace lorad
