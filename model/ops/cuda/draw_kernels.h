#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "model/ops/cuda/row_kernels.h"
#include "model/ops/draw_row.h"

// Tokens from logits, and into the next step's ids, queued on a stream; the contracts are those of DrawRows and
// PutDrawnTokens. Pointers are the device's.
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

struct DrawnTokens {
  const int32_t* tokens;
  int64_t draws;
  int64_t stride;
};
cudaError_t LaunchPutDrawnTokens(const DrawnTokens& drawn, int32_t* ids, int64_t count, cudaStream_t stream);

}  // namespace lorad::cuda
