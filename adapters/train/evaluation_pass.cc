#include "adapters/train/evaluation_pass.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "model/base/status_macros.h"

namespace lorad {

void EvaluationPass::Begin() {
  under_way_ = true;
  next_ = trained_tokens_ = 0;
  loss_sum_ = 0;
}

absl::StatusOr<std::vector<TrainSequence>> EvaluationPass::Next() {
  std::vector<TrainSequence> sequences;
  const int64_t end = std::min(examples_.count, next_ + micro_batch_size_);
  for (int64_t index = next_; index < end; ++index) {
    ASSIGN_OR_RETURN(const Example example, examples_.get(index));
    sequences.push_back(SequenceOf(example));
  }
  return sequences;
}

absl::StatusOr<std::optional<double>> EvaluationPass::Put(const PartResult& result) {
  loss_sum_ += result.loss_sum;
  trained_tokens_ += static_cast<int64_t>(result.logprobs.size());
  next_ = std::min(examples_.count, next_ + micro_batch_size_);
  if (next_ < examples_.count) return std::optional<double>();
  under_way_ = false;
  const double loss = loss_sum_ / static_cast<double>(std::max<int64_t>(1, trained_tokens_));
  if (std::isfinite(loss)) return std::optional<double>(loss);
  return absl::DataLossError(absl::StrCat("eval loss: ", loss, "; limit: finite; lower the learning rate"));
}

}  // namespace lorad
