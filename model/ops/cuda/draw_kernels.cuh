#pragma once

#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/draw_kernels.h"

// One block a row; nothing of the size of the vocabulary is written. Tokens are ordered by keys, weights are summed as
// integers: no result depends on the order in which threads come. A set of candidates is a prefix of the tokens by
// falling weight, so it is found by its last weight, eight bits of it at a time, and no row is sorted.
namespace lorad::cuda {

inline constexpr int kDrawThreads = 1024;
using Word = unsigned long long;
using BlockWords = SharedArray<Word, kWarp>;

struct LargerOf {
  __device__ Word operator()(Word a, Word b) const { return a > b ? a : b; }
};
struct SumOf {
  __device__ Word operator()(Word a, Word b) const { return a + b; }
};
template <typename Op>
__device__ inline Word WarpReduce(Word v, Op op) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) v = op(v, __shfl_xor_sync(kAllLanes, v, distance));
  return v;
}
// Over all threads of a block, for each of them. `words` may hold an earlier call's.
template <typename Op>
__device__ inline Word BlockReduce(Word v, BlockWords& words, Op op) {
  v = WarpReduce(v, op);
  __syncthreads();
  if (Lane() == 0) words[WarpOfBlock()] = v;
  __syncthreads();
  Word all = words[0];
  for (int w = 1; w < WarpsOfBlock(); ++w) all = op(all, words[w]);
  return all;
}
// The sum over the lanes below.
__device__ inline Word WarpSumBelow(Word v) {
  Word sum = v;
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int from = Lane() - distance;
    const Word other = __shfl_sync(kAllLanes, sum, from < 0 ? Lane() : from);
    if (from >= 0) sum += other;
  }
  return sum - v;
}

// Larger logits have larger keys, of equal ones the lower id; a NaN's is the largest of all.
__device__ inline Word KeyOf(float logit, int id) {
  const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 is 0
  const unsigned ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<Word>(logit == logit ? ordered : 0xFFFFFFFEu) << 32 | ~static_cast<unsigned>(id);
}
__device__ inline int IdOfKey(Word key) { return static_cast<int>(~static_cast<unsigned>(key)); }
__device__ inline float LogitOfKey(Word key) {
  const unsigned ordered = static_cast<unsigned>(key >> 32);
  return __uint_as_float(ordered >> 31 != 0 ? ordered & 0x7FFFFFFFu : ~ordered);
}
__device__ inline bool IsFinite(float v) { return v - v == 0.0f; }

// The largest key below `end`; 0: none.
__device__ inline Word LargestKey(const float* logits, int vocab, Word end, BlockWords& words) {
  Word largest = 0;
  for (int i = static_cast<int>(threadIdx.x); i < vocab; i += static_cast<int>(blockDim.x)) {
    const Word key = KeyOf(logits[i], i);
    if (key < end) largest = LargerOf()(largest, key);
  }
  return BlockReduce(largest, words, LargerOf());
}

// A weight, 1 at most, as an integer.
inline constexpr float kFixedOne = 0x1p44f;
__device__ inline Word Fixed(float weight) { return static_cast<Word>(weight * kFixedOne); }

// exp((logit - largest) / temperature) of a row's tokens.
struct Weights {
  const float* logits;
  int vocab;
  float largest;
  float inverse_temperature;
  __device__ float of(int id) const { return expf((logits[id] - largest) * inverse_temperature); }
};

// Measures of a token by its weight.
struct One {
  __device__ Word operator()(float) const { return 1; }
};
struct ItsWeight {
  __device__ Word operator()(float weight) const { return Fixed(weight); }
};

template <typename Measure>
__device__ inline Word SumFrom(const Weights& weights, float least, Measure measure, BlockWords& words) {
  Word sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < weights.vocab; i += static_cast<int>(blockDim.x)) {
    const float weight = weights.of(i);
    if (weight >= least) sum += measure(weight);
  }
  return BlockReduce(sum, words, SumOf());
}

// Of the weights from `least` on, by falling weight, the one at which the running sum of measures passes `target`,
// which is less than the whole sum; and the sum of those that are larger.
struct Passed {
  float weight;
  Word before;
};
// A bin's sum is in parts, as most weights of a row fall into a few bins: of a warp's lanes four add to the same part.
// The parts of a bin lie side by side, in banks of their own.
inline constexpr int kBins = 256, kBinsOfLane = kBins / kWarp, kBinParts = 8;
struct Bins {
  SharedArray<Word, kBins * kBinParts> parts;
  SharedArray<Word, kBins> sums;  // bin b's at PlaceOf(b): what the lanes read at once lies side by side
  __device__ static int PlaceOf(int bin) { return bin % kBinsOfLane * kWarp + bin / kBinsOfLane; }
};
// All threads of a block; what is added before counts behind it.
__device__ inline void SumParts(Bins& bins) {
  __syncthreads();
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += static_cast<int>(blockDim.x)) {
    Word sum = 0;
    // Each two lanes begin at a part of their own, which is in other banks.
    for (int j = 0; j < kBinParts; ++j) sum += bins.parts[b * kBinParts + (j + b / 2) % kBinParts];
    bins.sums[Bins::PlaceOf(b)] = sum;
  }
  __syncthreads();
}

template <typename Measure>
__device__ inline Passed WeightAt(const Weights& weights, float least, Word target, Measure measure, Bins& bins) {
  unsigned found = 0;  // the upper bits of the weight
  Word before = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int p = static_cast<int>(threadIdx.x); p < kBins * kBinParts; p += static_cast<int>(blockDim.x)) {
      bins.parts[p] = 0;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < weights.vocab; i += static_cast<int>(blockDim.x)) {
      const float weight = weights.of(i);
      const unsigned bits = __float_as_uint(weight);
      const bool has_found = shift == 24 || bits >> (shift + 8) == found;
      if (!(weight >= least && has_found)) continue;
      const int bin = static_cast<int>(bits >> shift & 255u);
      bins.parts.AtomicAdd(bin * kBinParts + Lane() % kBinParts, measure(weight));
    }
    SumParts(bins);
    // Each warp for itself; lane 0 has the largest bins.
    const int first = kBins - 1 - Lane() * kBinsOfLane;
    Word own = 0;
    for (int j = 0; j < kBinsOfLane; ++j) own += bins.sums[Bins::PlaceOf(first - j)];
    Word running = before + WarpSumBelow(own);
    const bool passes = running <= target && target < running + own;
    int bin = first;
    for (int j = 0; passes && j < kBinsOfLane; ++j) {
      bin = first - j;
      const Word of_bin = bins.sums[Bins::PlaceOf(bin)];
      if (target < running + of_bin) break;
      running += of_bin;
    }
    const unsigned passing = __ballot_sync(kAllLanes, passes);
    const int lane = passing == 0 ? kWarp - 1 : __ffs(static_cast<int>(passing)) - 1;
    found = found << 8 | static_cast<unsigned>(__shfl_sync(kAllLanes, bin, lane));
    before = __shfl_sync(kAllLanes, running, lane);
  }
  return {__uint_as_float(found), before};
}

// The token at which the running sum of measures, by id, passes `target`, which is less than the whole sum.
template <typename Measure>
__device__ inline int IdAt(int vocab, Word target, Measure measure, BlockWords& words, SharedArray<int, 1>& found) {
  const int of_warp = (vocab + static_cast<int>(blockDim.x) - 1) / static_cast<int>(blockDim.x) * kWarp;
  const int first = WarpOfBlock() * of_warp, end = first + of_warp < vocab ? first + of_warp : vocab;
  Word own = 0;
  for (int i = first + Lane(); i < end; i += kWarp) own += measure(i);
  own = WarpReduce(own, SumOf());
  __syncthreads();
  if (Lane() == 0) words[WarpOfBlock()] = own;
  __syncthreads();
  Word before = 0;
  for (int w = 0; w < WarpOfBlock(); ++w) before += words[w];
  const bool passes = before <= target && target < before + own;  // of one warp
  for (int i = first; passes && i < end; i += kWarp) {
    const int id = i + Lane();
    const Word its_own = id < end ? measure(id) : 0;
    const Word below = before + WarpSumBelow(its_own);
    const bool is_it = below <= target && target < below + its_own;
    if (is_it) found[0] = id;
    if (__ballot_sync(kAllLanes, is_it) != 0) break;
    before = __shfl_sync(kAllLanes, below + its_own, kWarp - 1);
  }
  __syncthreads();
  return found[0];
}

struct CandidateWeight {
  const Weights& weights;
  float least;
  __device__ Word operator()(int id) const {
    const float weight = weights.of(id);
    return weight >= least ? Fixed(weight) : 0;
  }
};
struct HasWeight {
  const Weights& weights;
  float weight;
  __device__ Word operator()(int id) const { return weights.of(id) == weight ? 1 : 0; }
};

// As an integer, and below the whole sum whatever was rounded.
__device__ inline Word PartBelow(double part, Word sum) {
  const Word target = static_cast<Word>(part);
  return target < sum ? target : sum - 1;
}
__device__ inline Word PartOf(double uniform, Word sum) { return PartBelow(uniform * static_cast<double>(sum), sum); }

// What the draw's steps share.
struct DrawMemory {
  BlockWords words;
  Bins bins;
  SharedArray<int, 1> found;
};

// Without top_p the running sum goes by id, with it by falling weight, as in model/sampler/candidates.cc.
__device__ inline int DrawnToken(const Weights& weights, const DrawRow& row, DrawMemory& memory) {
  constexpr float kLeastWeight = 0x1p-126f;  // what is no number of full precision is none
  float least = kLeastWeight;
  if (row.top_k > 0 && row.top_k < weights.vocab) {
    const Word k = static_cast<Word>(row.top_k);
    least = fmaxf(least, WeightAt(weights, 0.0f, k - 1, One(), memory.bins).weight);
  }
  const float floor = fminf(row.min_p, 1.0f);
  if (row.top_p >= 1.0f) {
    least = fmaxf(least, floor);
    const Word sum = SumFrom(weights, least, ItsWeight(), memory.words);
    return IdAt(weights.vocab, PartOf(row.uniform, sum), CandidateWeight{weights, least}, memory.words, memory.found);
  }
  const Word sum = SumFrom(weights, least, ItsWeight(), memory.words);
  // The first sum that reaches top_p is the first that passes what is one less.
  const double share = static_cast<double>(row.top_p) * static_cast<double>(sum);
  const Word last = PartBelow(fmax(ceil(share) - 1.0, 0.0), sum);
  const Passed cut = WeightAt(weights, least, last, ItsWeight(), memory.bins);
  const Word of_cut = Fixed(cut.weight);
  Word kept = cut.before + ((last - cut.before) / of_cut + 1) * of_cut;
  if (floor > cut.weight) kept = SumFrom(weights, floor, ItsWeight(), memory.words);
  const Word target = PartOf(row.uniform, kept);
  const Passed drawn = WeightAt(weights, least, target, ItsWeight(), memory.bins);
  return IdAt(weights.vocab, (target - drawn.before) / Fixed(drawn.weight), HasWeight{weights, drawn.weight},
              memory.words, memory.found);
}

// Where the token's edit is among its row's; -1: it has none.
__device__ inline int EditOf(const LogitEdit* edits, int count, int token) {
  int first = 0, end = count;
  while (first < end) {
    const int middle = (first + end) / 2;
    if (edits[middle].id < token) {
      first = middle + 1;
    } else {
      end = middle;
    }
  }
  return first < count && edits[first].id == token ? first : -1;
}

__device__ inline float Edited(const LogitEdit& edit, float logit) {
  logit += edit.bias;
  logit = logit > 0.0f ? logit / edit.repetition : logit * edit.repetition;
  return logit - edit.penalty;
}

__global__ void __launch_bounds__(kDrawThreads) DrawRowsKernel(DrawnLogits all) {
  __shared__ DrawMemory memory;
  const DrawRow row = all.rows[blockIdx.x];
  float* logits = all.logits.row(row.logit_row);
  const LogitEdit* edits = all.edits + row.first_edit;
  float* replaced = all.replaced + row.first_edit;
  const bool is_first = threadIdx.x == 0;

  Word largest = LargestKey(logits, row.vocab_size, ~Word{0}, memory.words);
  DrawnRow drawn = {-1, LogitOfKey(largest), LogitOfKey(largest), 0.0f};
  if (!IsFinite(drawn.model_max)) {
    if (is_first) all.drawn[blockIdx.x] = drawn;
    return;
  }
  double log_sum = 0.0;
  if (row.top >= 0) {
    const Weights shares = {logits, row.vocab_size, drawn.model_max, 1.0f};
    const Word sum = SumFrom(shares, 0.0f, ItsWeight(), memory.words);
    log_sum = log(static_cast<double>(sum) / static_cast<double>(kFixedOne)) + static_cast<double>(drawn.model_max);
    Word key = largest;
    for (int j = 0; j < row.top && key != 0; ++j) {
      if (is_first) {
        all.top[blockIdx.x * all.most + j] = {IdOfKey(key), static_cast<float>(LogitOfKey(key) - log_sum)};
      }
      if (j + 1 < row.top) key = LargestKey(logits, row.vocab_size, key, memory.words);
    }
  }
  if (row.edits > 0) {
    __syncthreads();  // all have read what the model said
    for (int e = static_cast<int>(threadIdx.x); e < row.edits; e += static_cast<int>(blockDim.x)) {
      float* logit = logits + edits[e].id;
      replaced[e] = *logit;
      *logit = Edited(edits[e], *logit);
    }
    __syncthreads();
    largest = LargestKey(logits, row.vocab_size, ~Word{0}, memory.words);
    drawn.edited_max = LogitOfKey(largest);
    if (!IsFinite(drawn.edited_max)) {
      if (is_first) all.drawn[blockIdx.x] = drawn;
      return;
    }
  }
  drawn.token = IdOfKey(largest);
  if (row.inverse_temperature > 0.0f) {
    drawn.token = DrawnToken({logits, row.vocab_size, drawn.edited_max, row.inverse_temperature}, row, memory);
  }
  if (!is_first) return;
  if (row.top >= 0) {
    const int edit = EditOf(edits, row.edits, drawn.token);
    const float logit = edit < 0 ? logits[drawn.token] : replaced[edit];
    drawn.logprob = static_cast<float>(logit - log_sum);
  }
  all.drawn[blockIdx.x] = drawn;
}

__global__ void PutDrawnTokensKernel(DrawnTokens drawn, int32_t* ids, int64_t count) {
  const int64_t t = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t >= count) return;
  const int64_t n = int64_t{kTokenOfFirstDraw} - ids[t];
  if (n >= 0) ids[t] = n < drawn.draws ? drawn.tokens[n * drawn.stride] : -1;
}

}  // namespace lorad::cuda
