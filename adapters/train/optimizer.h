#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"
#include "adapters/train/leaves.h"
#include "adapters/train/train_config.h"

namespace lorad {

struct AdamWStep;

// AdamW or SGD over f32 leaves, with torch's arithmetic (torch.optim, torch.nn.utils.clip_grad_norm_).
//
// Threads  the trainer's.
class Optimizer final {
 public:
  // The leaves' tensors are shared, not copied.
  Optimizer(const OptimizerConfig& config, std::vector<NamedLeaf> leaves);

  // Clips, updates the leaves at `learning_rate` and clears their gradients; returns the norm before clipping. A leaf
  // without a gradient counts as a gradient of zero. Errors: DataLoss when the norm is not finite; nothing is changed
  // then.
  absl::StatusOr<double> Step(double learning_rate);

  // Other settings from the next step on, of the same kind.
  void set_config(const OptimizerConfig& config) { config_ = config; }

  // Everything but the leaves that the next step depends on, under names of their own; shared, to be saved or written.
  std::vector<std::pair<std::string, at::Tensor>> State() const;
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 private:
  struct LeafSettings {
    double learning_rate;
    double weight_decay;
  };
  // LoRA+ has groups of them. Source: peft 0.21.2, create_loraplus_optimizer of optimizers/loraplus.py.
  LeafSettings SettingsOf(const NamedLeaf& leaf, double learning_rate) const;
  double GradientNorm() const;
  AdamWStep AdamWStepOf(const LeafSettings& settings, double clip) const;
  void AdamW(size_t leaf, const at::Tensor& gradient, const AdamWStep& step);
  void AdamWOnDevice(size_t leaf, const at::Tensor& gradient, const AdamWStep& step);  // one that does not clip
  void Sgd(size_t leaf, const at::Tensor& gradient, const LeafSettings& settings);

  OptimizerConfig config_;
  const std::vector<NamedLeaf> leaves_;
  const bool on_device_;
  std::vector<at::Tensor> first_;   // Adam's m, or SGD's momentum; by leaf
  std::vector<at::Tensor> second_;  // Adam's v
  int64_t steps_ = 0;
};

}  // namespace lorad
