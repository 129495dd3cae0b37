#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/train/micro_batch_part.h"
#include "adapters/train/trainer.h"

namespace lorad {

// One pass over the examples that are kept from training, micro-batch by micro-batch, nothing of which is followed
// down: it changes no weight and draws nothing, so that a run with evaluations has the bits of one without.
class EvaluationPass final {
 public:
  EvaluationPass(ExampleSource examples, int64_t micro_batch_size)
      : examples_(std::move(examples)), micro_batch_size_(micro_batch_size) {}

  bool possible() const { return examples_.count > 0; }
  bool under_way() const { return under_way_; }
  void Begin();  // or begin anew

  // The next micro-batch's sequences; those given twice are the same until Put was called.
  absl::StatusOr<std::vector<TrainSequence>> Next();
  // The mean loss of the learnt tokens when that was the last micro-batch. Errors: DataLoss when it is not finite.
  absl::StatusOr<std::optional<double>> Put(const PartResult& result);

 private:
  const ExampleSource examples_;
  const int64_t micro_batch_size_;
  bool under_way_ = false;
  int64_t next_ = 0;  // example
  double loss_sum_ = 0;
  int64_t trained_tokens_ = 0;
};

}  // namespace lorad
