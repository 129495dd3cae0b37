#pragma once

#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/expert_kernels.h"

namespace lorad::cuda {

// One warp a row. A choice is the largest probability that is left, of equals the lowest number; of a row that is not a
// number that is expert 0, 1, …
template <typename T>
__global__ void RouteTopKKernel(Rows<const T> logits, int64_t experts, int64_t k, bool renormalise, int32_t* chosen,
                                float* weights) {
  __shared__ SharedArray<float, static_cast<int>(kMaxExperts)> p;
  const int64_t r = blockIdx.x;
  const int lane = Lane(), count = static_cast<int>(experts);
  const T* row = logits.row(r);
  float largest = -INFINITY, sum = 0.0f;
  for (int e = lane; e < count; e += kWarp) largest = fmaxf(largest, Widen(row[e]));
  largest = WarpMax(largest);
  for (int e = lane; e < count; e += kWarp) {
    const float v = expf(Widen(row[e]) - largest);
    p[e] = v;
    sum += v;
  }
  sum = WarpSum(sum);
  // A lane reads and marks only what it wrote.
  constexpr float kTaken = -1.0f;
  float chosen_sum = 0.0f;
  for (int64_t j = 0; j < k; ++j) {
    float best = -1.0f;
    int best_expert = count;
    for (int e = lane; e < count; e += kWarp) {
      const float v = p[e];
      if (v > best) {
        best = v;
        best_expert = e;
      }
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, best, distance);
      const int other_expert = __shfl_xor_sync(kAllLanes, best_expert, distance);
      if (other > best || (other == best && other_expert < best_expert)) {
        best = other;
        best_expert = other_expert;
      }
    }
    const bool is_number = sum == sum;
    const int expert = is_number ? best_expert : static_cast<int>(j);
    const float weight = is_number ? best / sum : sum;
    chosen_sum += weight;
    if (lane == 0) {
      chosen[r * k + j] = expert;
      weights[r * k + j] = weight;
    }
    if (expert % kWarp == lane) p[expert] = kTaken;
  }
  if (renormalise && lane == 0) {
    for (int64_t j = 0; j < k; ++j) weights[r * k + j] /= chosen_sum;
  }
}

// Block (row, columns); a thread a column, its sum in the order of the pairs.
template <typename T>
__global__ void CombineExpertsKernel(CombinedRows<T> rows) {
  const int64_t r = blockIdx.x, c = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (c >= rows.width) return;
  T* y = rows.y.row(rows.to_rows == nullptr ? r : rows.to_rows[r]) + c;
  float sum = rows.add ? Widen(*y) : 0.0f;
  for (int64_t j = r * rows.k; j < (r + 1) * rows.k; ++j) {
    if (rows.pairs[j] >= 0) sum = fmaf(rows.weights[j], Widen(rows.x.row(rows.pairs[j])[c]), sum);
  }
  if (rows.shared.data != nullptr) {
    const float gate = 1.0f / (1.0f + expf(-Widen(rows.shared_logits.row(r)[0])));
    sum = fmaf(gate, Widen(rows.shared.row(r)[c]), sum);
  }
  Put(sum, y);
}

}  // namespace lorad::cuda
