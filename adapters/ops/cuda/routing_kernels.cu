#include "adapters/ops/cuda/routing_kernels.h"

#include "adapters/ops/cuda/segmented_kernels.cuh"
#include "model/ops/cuda/expert_kernels.cuh"
#include "model/ops/cuda/launch.h"

namespace lorad::cuda {
namespace {

constexpr int kRoutingWarps = 8;

// The tile of a pair, with its row's terms: of the router's slot at `expert`.
__device__ void WriteTile(const RoutingWork& work, const RoutedRow& routed, int64_t pair, int32_t expert) {
  const RowTile from = work.tiles[work.tile_of_row[routed.row]];
  const auto first_term = static_cast<int32_t>(pair * work.most_terms);
  for (int32_t t = from.first_term; t < from.end_term; ++t) {
    SlotTerm term = work.terms[t];
    if (term.slot == routed.slot) term.expert = expert;
    work.pair_terms[first_term + t - from.first_term] = term;
  }
  work.pair_tiles[pair] = {
      static_cast<int32_t>(pair), 1,         first_term, first_term + from.end_term - from.first_term,
      pair * work.ranks,          work.ranks};
}

// The j-th choice of routed row q, or none.
__device__ void WritePair(const RoutingWork& work, const RoutedRow& routed, int64_t q, int64_t j) {
  const int64_t first = q * work.choices, pair = first + j;
  work.input_rows[pair] = routed.row < 0 ? 0 : routed.row;
  if (routed.row < 0 || j >= routed.top_k) {
    work.row_pairs[pair] = -1;
    work.weights[pair] = 0.0f;
    work.pair_tiles[pair] = RowTile();
    return;
  }
  const int32_t expert = work.chosen[pair];
  int64_t place = first;  // by ascending expert
  for (int64_t other = 0; other < routed.top_k; ++other) place += work.chosen[first + other] < expert ? 1 : 0;
  work.row_pairs[place] = static_cast<int32_t>(pair);
  work.weights[place] = work.chosen_weights[pair];
  WriteTile(work, routed, pair, expert);
  if (std::atomic<int64_t>* const counters = work.slots[routed.slot].expert_rows; counters != nullptr) {
    CountRow(counters + expert);
  }
}

// A block for each routed row: a warp a logit, then one warp chooses.
template <typename T>
__global__ void RouteRowsKernel(RoutingWork work, Rows<const T> x, int64_t width) {
  __shared__ SharedArray<float, static_cast<int>(kMaxExperts)> logits;
  __shared__ Probabilities p;
  const int64_t q = blockIdx.x;
  const RoutedRow routed = work.routed[q];
  if (routed.row >= 0) {
    const SlotWeights& w = work.slots[routed.slot];
    const T* row = x.row(routed.row);
    for (int e = WarpOfBlock(); e < w.experts; e += kRoutingWarps) {
      float sum = 0.0f;
      for (int64_t i = Lane(); i < width; i += kWarp) sum = fmaf(Widen(row[i]), w.router[e * width + i], sum);
      sum = WarpSum(sum);
      if (Lane() == 0) logits[e] = sum;
    }
    __syncthreads();
    if (WarpOfBlock() != 0) return;
    ChooseTopK([&](int e) { return static_cast<float>(logits[e]); }, w.experts, routed.top_k, routed.renormalise != 0,
               p, work.chosen + q * work.choices, work.chosen_weights + q * work.choices);
    __syncwarp();
  } else if (WarpOfBlock() != 0) {
    return;
  }
  if (Lane() == 0) work.rows[q] = routed.row;
  for (int64_t j = Lane(); j < work.choices; j += kWarp) WritePair(work, routed, q, j);
}

}  // namespace

template <typename T>
cudaError_t LaunchRouteRows(const RoutingWork& work, const Rows<const T>& x, int64_t width, cudaStream_t stream) {
  return Launch(&RouteRowsKernel<T>, Grid(work.num_routed), kRoutingWarps * kWarp, stream, work, x, width);
}

template cudaError_t LaunchRouteRows(const RoutingWork&, const Rows<const float>&, int64_t, cudaStream_t);
template cudaError_t LaunchRouteRows(const RoutingWork&, const Rows<const Bf16>&, int64_t, cudaStream_t);

}  // namespace lorad::cuda
