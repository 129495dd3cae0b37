#pragma once

#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/expert_kernels.h"

namespace lorad::cuda {

using Probabilities = SharedArray<float, static_cast<int>(kMaxExperts)>;

// By one warp, of logits(e) for `count` experts: the k likeliest and their weights. A choice is the largest probability
// that is left, of equals the lowest number; of a row that is not a number that is expert 0, 1, … `p` is scratch.
template <typename Logits>
__device__ void ChooseTopK(const Logits& logits, int count, int64_t k, bool renormalise, Probabilities& p,
                           int32_t* chosen, float* weights) {
  const int lane = Lane();
  float largest = -INFINITY, sum = 0.0f;
  for (int e = lane; e < count; e += kWarp) largest = fmaxf(largest, logits(e));
  largest = WarpMax(largest);
  for (int e = lane; e < count; e += kWarp) {
    const float v = expf(logits(e) - largest);
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
      chosen[j] = expert;
      weights[j] = weight;
    }
    if (expert % kWarp == lane) p[expert] = kTaken;
  }
  if (renormalise && lane == 0) {
    for (int64_t j = 0; j < k; ++j) weights[j] /= chosen_sum;
  }
}

// One warp a row.
template <typename T>
__global__ void RouteTopKKernel(Rows<const T> logits, int64_t experts, int64_t k, bool renormalise, int32_t* chosen,
                                float* weights) {
  __shared__ Probabilities p;
  const T* row = logits.row(blockIdx.x);
  ChooseTopK([&](int e) { return Widen(row[e]); }, static_cast<int>(experts), k, renormalise, p,
             chosen + blockIdx.x * k, weights + blockIdx.x * k);
}

// Block (row, columns); a thread a column, its sum in the order of the pairs.
template <typename T>
__global__ void CombineExpertsKernel(CombinedRows<T> rows) {
  const int64_t r = blockIdx.x, c = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (c >= rows.width) return;
  const int64_t to_row = rows.to_rows == nullptr ? r : rows.to_rows[r];
  if (to_row < 0) return;
  T* y = rows.y.row(to_row) + c;
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
