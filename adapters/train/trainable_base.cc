#include "adapters/train/trainable_base.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "model/causal_lm.h"

namespace lorad {

absl::Status CheckTrainable(const CausalLm& base) {
  if (base.device().is_cpu()) return absl::OkStatus();
  if (base.config().routed.experts > 0) {
    return absl::UnimplementedError(
        "training on CUDA: base with routed experts; limit: dense; start with --device=cpu");
  }
  if (base.quantization() == Quantization::kNone) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("training on CUDA: quantization: ", std::string(Name(base.quantization())),
                   "; limit: none; start with --quantize=none or --device=cpu"));
}

}  // namespace lorad
