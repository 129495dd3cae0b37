#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "model/ops/cuda/row_kernels.h"
#include "model/ops/draw_row.h"

// Tokens from logits, queued on a stream; the contract is DrawRows'. Pointers are the device's.
namespace lorad::cuda {

struct DrawnLogits {
  Rows<float> logits;
  const DrawRow* rows;
  const LogitEdit* edits;
  float* replaced;  // [edits]: scratch
  int64_t most;
  DrawnRow* drawn;
  DrawnLogprob* top;  // [rows, most]
};
// vocab: the largest of a row.
cudaError_t LaunchDrawRows(const DrawnLogits& logits, int64_t rows, int64_t vocab, cudaStream_t stream);

}  // namespace lorad::cuda
