#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "model/ops/cuda/attention_tiles.h"

// Attention on tensor cores by a library's kernels, beside ours (attention_kernels.h), which is the reference, is for
// any head and type, and is all that there is until CheckFastAttention has found both to agree on the device at hand.
namespace lorad::cuda {

struct FastAttention {
  const char* name;
  std::vector<int64_t> head_dims;  // that there are kernels for
  bool (*caps)(int64_t head_dim);  // with a softcap, too
  // Packed rows of an item where a sequence has so many on average.
  int32_t (*tile_rows)(int64_t head_dim, int64_t packed_rows);
  int64_t (*blocks_at_once)();  // of the device
  // y of all rows that have items.
  cudaError_t (*run)(const AttentionRows<__nv_bfloat16>& rows, const AttentionTiles& tiles, cudaStream_t stream);
};

// FlashInfer's, of liblorad_cuda.so; on an emulated device a stand-in that tests choose (tests/cuda_emulator).
const FastAttention& LinkedFastAttention();

// Compares both on small cases, of each head size, on LibTorch's current device; from then on PagedAttention goes to
// the fast form for the sizes where they agree, and its name with them to `used`, if there is one. A line for each that
// do not, or fail.
std::vector<std::string> CheckFastAttention(std::vector<std::string>* used);
void LeaveOutFastAttention();

}  // namespace lorad::cuda
