#include "adapters/train/micro_batch.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include "adapters/train/batch_bytes.h"
#include "adapters/train/follow_down.h"
#include "adapters/train/leaves.h"
#include "model/base/status_macros.h"
#include "model/ops/autograd/log_probability.h"
#include "model/ops/pieces.h"
#include "model/weights.h"

namespace lorad {
namespace {

constexpr int64_t kHeadElements = int64_t{1} << 22;  // logits of one slice: 16 MiB, which their gradient takes over
constexpr int64_t kDeviceHeadElements = int64_t{1} << 23;
constexpr int64_t kSoftmaxProducts = 16;  // what an element of it takes, counted in products of a matmul

int64_t RowsOfElements(int64_t elements, int64_t vocab_size) { return std::max<int64_t>(16, elements / vocab_size); }

int64_t HeadRows(const CausalLm& model) {
  const int64_t vocab_size = model.config().vocab_size;
  return model.device().is_cpu() ? RowsOfElements(kHeadElements, vocab_size) : HeadRowsOnDevice(vocab_size);
}

// By trained row.
template <typename Value>
at::Tensor OfTrainedRows(const std::vector<TrainedRow>& rows, int32_t TrainedRow::*member) {
  std::vector<Value> values;
  for (const TrainedRow& row : rows) values.push_back(row.*member);
  return at::tensor(values);
}

int64_t LowestLayer(const std::vector<MicroBatchPart>& parts) {
  int64_t lowest = std::numeric_limits<int64_t>::max();
  for (const MicroBatchPart& part : parts) {
    if (part.loss.scale != 0.0) lowest = std::min(lowest, part.leaves->first_layer());
  }
  return lowest;
}

// About what the backward of a layer keeps.
int64_t RecordedBytes(const std::vector<MicroBatchPart>& parts, const ModelConfig& config) {
  int64_t bytes = 0;
  for (const MicroBatchPart& part : parts) {
    const RoutedTraining* routed = part.leaves->routed();
    const int64_t experts = routed == nullptr ? 0 : routed->moe.routing.Choices(routed->moe.experts);
    const int64_t of_row = RecordedRowBytes(config, experts);
    for (const TrainSequence& sequence : part.sequences) bytes += of_row * std::ssize(sequence.token_ids);
  }
  return bytes;
}

// How its rows are dealt to experts is wanted, even if they learn nothing.
bool IsCounted(const MicroBatchPart& part) { return part.router_tally != nullptr && !part.router_tally->complete; }

at::Tensor GradientOf(const at::Tensor& leaf) { return leaf.defined() ? leaf.grad() : at::Tensor(); }

}  // namespace

int64_t HeadRowsOnDevice(int64_t vocab_size) { return RowsOfElements(kDeviceHeadElements, vocab_size); }

MicroBatch::MicroBatch(CausalLm* model, std::vector<MicroBatchPart> parts, int64_t kept_bytes)
    : model_(model),
      parts_(std::move(parts)),
      seam_(&parts_, ToScalarType(model->dtype())),
      rows_(BuildRows(parts_)),
      batch_(Place(model->device(), rows_.batch)),
      logit_rows_(OnDevice(model->device(), OfTrainedRows<int32_t>(rows_.trained, &TrainedRow::row))),
      targets_(OnDevice(model->device(), OfTrainedRows<int64_t>(rows_.trained, &TrainedRow::target))),
      first_layer_(LowestLayer(parts_)),
      layers_(model->config().num_layers),
      first_recorded_(layers_ - kept_bytes / std::max<int64_t>(1, RecordedBytes(parts_, model->config()))),
      results_(parts_.size()) {
  for (const TrainedRow& row : rows_.trained) results_[static_cast<size_t>(row.part)].logprobs.push_back(0.0f);
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
  if (rows_.trained.empty() && std::none_of(parts_.begin(), parts_.end(), IsCounted)) {
    phase_ = Phase::kDone;
    return absl::OkStatus();
  }
  const at::NoGradGuard frozen;
  ASSIGN_OR_RETURN(hidden_, model_->Embed(batch_, seam_));
  phase_ = Phase::kForward;
  return absl::OkStatus();
}

absl::Status MicroBatch::Forward() {
  const bool trained = layer_ >= first_layer_, recorded = trained && layer_ >= first_recorded_;
  const at::AutoGradMode mode(recorded);
  if (recorded) hidden_ = AsLeaf(hidden_, layer_ > first_layer_);
  ASSIGN_OR_RETURN(HiddenRows out, model_->RunLayer(layer_, hidden_, batch_, seam_));
  if (trained) kept_.push_back({std::move(hidden_), recorded ? out : HiddenRows()});
  hidden_ = AsLeaf(out, /*wants_gradient=*/false);
  if (++layer_ < layers_) return absl::OkStatus();
  if (rows_.trained.empty()) return EndForward();
  phase_ = Phase::kHead;
  hidden_ = AsLeaf(hidden_, first_layer_ < layers_);
  return absl::OkStatus();
}

absl::Status MicroBatch::EndForward() {
  RETURN_IF_ERROR(GuardedOnDevice([&]() -> absl::Status {
    if (!logprobs_.empty()) TakeLosses();
    const std::vector<double> router_losses = seam_.router_loss().Values();
    for (size_t part = 0; part < parts_.size(); ++part) results_[part].router_loss = router_losses[part];
    return absl::OkStatus();
  }));
  hidden_ = {GradientOf(hidden_.residual), GradientOf(hidden_.pending)};
  phase_ = kept_.empty() ? Phase::kDone : Phase::kBackward;
  return absl::OkStatus();
}

at::Tensor MicroBatch::DerivativesOf(size_t first, const at::Tensor& logprobs) const {
  std::vector<float> derivatives(static_cast<size_t>(logprobs.numel()));
  const auto row = rows_.trained.begin() + static_cast<int64_t>(first);
  const auto needs_value = [&](const TrainedRow& trained) {
    return parts_[static_cast<size_t>(trained.part)].loss.kind != LossKind::kCrossEntropy;
  };
  at::Tensor values;
  if (std::any_of(row, row + logprobs.numel(), needs_value)) values = ToHost(logprobs);
  for (size_t i = 0; i < derivatives.size(); ++i) {
    const TrainedRow& trained = rows_.trained[first + i];
    const double logprob = values.defined() ? values.const_data_ptr<float>()[i] : 0.0;
    const RowLoss& loss = parts_[static_cast<size_t>(trained.part)].loss;
    derivatives[i] = static_cast<float>(LossOf(loss, static_cast<size_t>(trained.of_part), logprob).derivative);
  }
  return OnDevice(logprobs.device(), at::tensor(derivatives));
}

void MicroBatch::TakeLosses() {
  const at::Tensor all = ToHost(logprobs_.size() == 1 ? logprobs_[0] : at::cat(logprobs_, 0));
  logprobs_.clear();
  const float* const values = all.const_data_ptr<float>();
  for (size_t i = 0; i < rows_.trained.size(); ++i) {
    const TrainedRow& row = rows_.trained[i];
    const auto part = static_cast<size_t>(row.part), of_part = static_cast<size_t>(row.of_part);
    results_[part].logprobs[of_part] = values[i];
    results_[part].loss_sum += LossOf(parts_[part].loss, of_part, values[i]).loss;
  }
}

PlacedBatch MicroBatch::WithLogitRows(size_t first, size_t count) const {
  PlacedBatch wanted = {lorad::WithLogitRows(rows_, first, count), batch_.on_device};
  wanted.on_device.head_rows = wanted.on_host.head_rows;
  wanted.on_device.logit_rows = logit_rows_.narrow(0, static_cast<int64_t>(first), static_cast<int64_t>(count));
  return wanted;
}

absl::Status MicroBatch::Head() {
  const size_t first = next_trained_row_;
  const size_t count = std::min(rows_.trained.size() - first, static_cast<size_t>(HeadRows(*model_)));
  const at::AutoGradMode recorded(true);
  ASSIGN_OR_RETURN(const at::Tensor logits, model_->Logits(hidden_, WithLogitRows(first, count), seam_));
  RETURN_IF_ERROR(GuardedOnDevice([&]() -> absl::Status {
    const at::Tensor targets = targets_.narrow(0, static_cast<int64_t>(first), static_cast<int64_t>(count));
    BeginPiece(kSoftmaxProducts * logits.numel());
    const at::Tensor logprobs = LogProbabilities(logits, targets);
    logprobs_.push_back(logprobs.detach());
    if (!logprobs.requires_grad()) return absl::OkStatus();
    const at::Tensor derivatives = DerivativesOf(first, logprobs_.back());
    BeginPiece(kSoftmaxProducts * logits.numel());
    FollowDown({logprobs}, {derivatives});
    return absl::OkStatus();
  }));
  next_trained_row_ += count;
  return next_trained_row_ < rows_.trained.size() ? absl::OkStatus() : EndForward();
}

absl::Status MicroBatch::Backward() {
  --layer_;
  auto [in, out] = std::move(kept_.back());
  kept_.pop_back();
  if (!out.residual.defined()) {
    in = AsLeaf(in, layer_ > first_layer_);
    const at::AutoGradMode recorded(true);
    ASSIGN_OR_RETURN(out, model_->RunLayer(layer_, in, batch_, seam_));
  }
  RETURN_IF_ERROR(Follow(out));
  hidden_ = {GradientOf(in.residual), GradientOf(in.pending)};
  if (kept_.empty()) phase_ = first_layer_ < 0 ? Phase::kEmbedBackward : Phase::kDone;
  return absl::OkStatus();
}

absl::Status MicroBatch::EmbedBackward() {
  const at::AutoGradMode recorded(true);
  ASSIGN_OR_RETURN(const HiddenRows out, model_->Embed(batch_, seam_));
  phase_ = Phase::kDone;
  return Follow(out);
}

absl::Status MicroBatch::Follow(const HiddenRows& out) {
  return GuardedOnDevice([&]() -> absl::Status {
    std::vector<at::Tensor> roots, gradients;
    const auto add = [&](const at::Tensor& root, const at::Tensor& gradient) {
      if (!root.defined() || !root.requires_grad() || !gradient.defined()) return;
      roots.push_back(root);
      gradients.push_back(gradient);
    };
    add(out.residual, hidden_.residual);
    add(out.pending, hidden_.pending);
    seam_.router_loss().TakeRoots(static_cast<int32_t>(layer_), &roots, &gradients);
    if (!roots.empty()) FollowDown(roots, gradients);
    return absl::OkStatus();
  });
}

}  // namespace lorad
