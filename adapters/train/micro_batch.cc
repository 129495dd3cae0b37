#include "adapters/train/micro_batch.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/tensor.h>

#include "model/base/guarded.h"
#include "model/base/status_macros.h"

namespace lorad {
namespace {

constexpr int64_t kHeadElements = int64_t{8} << 20;  // logits of one slice: 32 MiB of f32, three times over

int64_t HeadRows(int64_t vocab_size) { return std::max<int64_t>(16, kHeadElements / vocab_size); }

at::Tensor GradientOf(const at::Tensor& leaf) { return leaf.defined() ? leaf.grad() : at::Tensor(); }

}  // namespace

MicroBatch::MicroBatch(CausalLm* model, AdapterSeam* seam, TrainRows rows, double loss_scale, int64_t first_layer)
    : model_(model),
      seam_(seam),
      rows_(std::move(rows)),
      loss_scale_(loss_scale),
      first_layer_(first_layer),
      layers_(model->config().num_layers) {
  for (size_t row = 0; row < rows_.targets.size(); ++row) {
    if (rows_.targets[row] != kNotTrained) trained_rows_.push_back(static_cast<int32_t>(row));
  }
}

absl::Status MicroBatch::Advance() {
  switch (phase_) {
    case Phase::kEmbed:
      return Embed();
    case Phase::kForward:
      return Forward();
    case Phase::kHead:
      return Head();
    case Phase::kBackward:
      return Backward();
    case Phase::kEmbedBackward:
      return EmbedBackward();
    case Phase::kDone:
      break;
  }
  return absl::OkStatus();
}

HiddenRows MicroBatch::AsLeaf(const HiddenRows& rows, bool wants_gradient) const {
  HiddenRows leaf{rows.residual.detach(), rows.pending.defined() ? rows.pending.detach() : at::Tensor()};
  if (!wants_gradient) return leaf;
  leaf.residual.set_requires_grad(true);
  if (leaf.pending.defined()) leaf.pending.set_requires_grad(true);
  return leaf;
}

absl::Status MicroBatch::Embed() {
  if (trained_rows_.empty()) {
    phase_ = Phase::kDone;
    return absl::OkStatus();
  }
  const at::NoGradGuard frozen;
  ASSIGN_OR_RETURN(hidden_, model_->Embed(rows_.batch, *seam_));
  phase_ = Phase::kForward;
  return absl::OkStatus();
}

absl::Status MicroBatch::Forward() {
  const at::NoGradGuard frozen;
  HiddenRows out;
  ASSIGN_OR_RETURN(out, model_->RunLayer(layer_, hidden_, rows_.batch, *seam_));
  if (layer_ >= first_layer_) inputs_.push_back(std::move(hidden_));
  hidden_ = std::move(out);
  if (++layer_ == layers_) {
    phase_ = Phase::kHead;
    hidden_ = AsLeaf(hidden_, first_layer_ < layers_);
  }
  return absl::OkStatus();
}

absl::Status MicroBatch::Head() {
  const size_t count =
      std::min(trained_rows_.size() - next_trained_row_, static_cast<size_t>(HeadRows(model_->config().vocab_size)));
  const auto first = trained_rows_.begin() + static_cast<int64_t>(next_trained_row_);
  const std::vector<int32_t> rows(first, first + static_cast<int64_t>(count));
  std::vector<int64_t> targets;
  for (const int32_t row : rows) targets.push_back(rows_.targets[static_cast<size_t>(row)]);
  const at::AutoGradMode recorded(true);
  ASSIGN_OR_RETURN(const at::Tensor logits, model_->Logits(hidden_, WithLogitRows(rows_.batch, rows), *seam_));
  RETURN_IF_ERROR(Guarded([&]() -> absl::Status {
    const at::Tensor sum = at::nll_loss(at::log_softmax(logits, 1), at::tensor(targets), {}, at::Reduction::Sum);
    loss_sum_ += sum.item<double>();
    torch::autograd::backward({at::mul(sum, loss_scale_)}, {});
    return absl::OkStatus();
  }));
  next_trained_row_ += count;
  if (next_trained_row_ < trained_rows_.size()) return absl::OkStatus();
  hidden_ = {GradientOf(hidden_.residual), GradientOf(hidden_.pending)};
  phase_ = inputs_.empty() ? Phase::kDone : Phase::kBackward;
  return absl::OkStatus();
}

absl::Status MicroBatch::Backward() {
  --layer_;
  const HiddenRows in = AsLeaf(inputs_.back(), layer_ > first_layer_);
  inputs_.pop_back();
  const at::AutoGradMode recorded(true);
  ASSIGN_OR_RETURN(const HiddenRows out, model_->RunLayer(layer_, in, rows_.batch, *seam_));
  RETURN_IF_ERROR(Follow(out));
  hidden_ = {GradientOf(in.residual), GradientOf(in.pending)};
  if (inputs_.empty()) phase_ = first_layer_ < 0 ? Phase::kEmbedBackward : Phase::kDone;
  return absl::OkStatus();
}

absl::Status MicroBatch::EmbedBackward() {
  const at::AutoGradMode recorded(true);
  ASSIGN_OR_RETURN(const HiddenRows out, model_->Embed(rows_.batch, *seam_));
  phase_ = Phase::kDone;
  return Follow(out);
}

absl::Status MicroBatch::Follow(const HiddenRows& out) {
  return Guarded([&]() -> absl::Status {
    std::vector<at::Tensor> roots, gradients;
    const auto add = [&](const at::Tensor& root, const at::Tensor& gradient) {
      if (!root.defined() || !root.requires_grad() || !gradient.defined()) return;
      roots.push_back(root);
      gradients.push_back(gradient);
    };
    add(out.residual, hidden_.residual);
    add(out.pending, hidden_.pending);
    if (!roots.empty()) torch::autograd::backward(roots, gradients);
    return absl::OkStatus();
  });
}

}  // namespace lorad
