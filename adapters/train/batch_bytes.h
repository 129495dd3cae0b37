#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "adapters/train/train_config.h"
#include "model/base/dtype.h"
#include "model/config.h"
#include "model/sites.h"

namespace lorad {

// A micro-batch, of one adapter or several.
struct BatchShape {
  int64_t rows = 0;
  int64_t longest_tokens = 0;  // of its sequences
};

// What of an adapter makes a micro-batch larger.
struct AdapterWidths {
  int64_t in = 0;              // of the modules of a layer with a pair, in all; with experts as often as a row has them
  int64_t out = 0;             // the same
  int64_t experts = 0;         // that a row goes to
  bool drops = false;          // dropout
  bool scales = false;         // DoRA
  int64_t whole_elements = 0;  // of the largest weight that is trained whole
};
// Errors: as SelectTrained and SelectRoutedPlaces.
absl::StatusOr<AdapterWidths> WidthsOf(const TrainConfig& config, const BaseShape& base);
// Pairs of every linear, with DoRA and dropout.
AdapterWidths WidestOf(const BaseShape& base);

// About what the backward of a layer keeps of a row: its norms', attention's and FFN's inner values, widened, and of a
// row with experts, the adapter's or the base's, its FFN's once more for each of them, or their sums.
int64_t RecordedRowBytes(const ModelConfig& model, int64_t adapter_experts);

// The most that MicroBatch takes of a device's memory beside leaves, gradients and the optimizer's states, where it may
// keep `kept_bytes`; from shapes alone. More than it takes, by up to three times; LibTorch's own slack, as of segments
// of which a part is free, is not in it.
int64_t BatchBytes(const ModelConfig& model, DType dtype, const AdapterWidths& adapter, const BatchShape& batch,
                   int64_t kept_bytes);

}  // namespace lorad
