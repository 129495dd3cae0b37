#include "adapters/train/follow_down.h"

#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/autograd.h>

namespace lorad {
namespace {

class OnThisThread final {
 public:
  OnThisThread() { state().set_multithreading_enabled(false); }
  ~OnThisThread() { state().set_multithreading_enabled(before_); }
  OnThisThread(const OnThisThread&) = delete;
  OnThisThread& operator=(const OnThisThread&) = delete;

 private:
  static c10::AutogradState& state() { return c10::AutogradState::get_tls_state(); }

  const bool before_ = state().get_multithreading_enabled();
};

}  // namespace

void FollowDown(const std::vector<at::Tensor>& roots, const std::vector<at::Tensor>& gradients) {
  const OnThisThread on_this_thread;
  torch::autograd::backward(roots, gradients);
}

}  // namespace lorad
