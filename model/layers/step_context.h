#pragma once

#include "model/adapter_seam.h"
#include "model/forward_batch.h"
#include "model/kv/kv_layout.h"
#include "model/layers/rope.h"

namespace lorad {

// What every layer of one forward sees. Lives on Forward's stack.
struct StepContext {
  const ForwardBatch& batch;
  const KvView& kv;  // arena null: no cache, every sequence of the batch is whole
  AdapterSeam& seam;
  const RopeRows& rope;
  const RopeRows& local_rope;  // of layers with a window, where those have their own
};

}  // namespace lorad
