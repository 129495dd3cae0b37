#pragma once

#include <cstdint>
#include <utility>

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <shared_array.cuh>

// What all kernels use: numbers of the operators' two types, and sums over a warp or a block. Only what the block
// emulator has as well; no Torch.
namespace lorad::cuda {

using Bf16 = __nv_bfloat16;

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ inline float Widen(float v) { return v; }
__device__ inline float Widen(Bf16 v) { return __bfloat162float(v); }
__device__ inline void Put(float v, float* to) { *to = v; }
__device__ inline void Put(float v, Bf16* to) { *to = __float2bfloat16_rn(v); }
// v as a T holds it.
template <typename T>
__device__ inline float Rounded(float v) {
  T rounded;
  Put(v, &rounded);
  return Widen(rounded);
}

__device__ inline int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int WarpOfBlock() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int WarpsOfBlock() { return static_cast<int>(blockDim.x) / kWarp; }

// Over all lanes of a warp, the same bits in each: a butterfly adds in one order.
__device__ inline float WarpSum(float v) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) v += __shfl_xor_sync(kAllLanes, v, distance);
  return v;
}
// Passes over NaN.
__device__ inline float WarpMax(float v) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, distance));
  }
  return v;
}

// Over all threads of a block of whole warps, for each of them. `sums` may hold an earlier call's.
using BlockSums = SharedArray<float, 32>;
__device__ inline float BlockSum(float v, BlockSums& sums) {
  v = WarpSum(v);
  __syncthreads();
  if (Lane() == 0) sums[WarpOfBlock()] = v;
  __syncthreads();
  float total = 0.0f;
  for (int w = 0; w < WarpsOfBlock(); ++w) total += sums[w];
  return total;
}

// fn(0) … fn(N - 1) one behind the other, each with a constant: arrays that it indexes stay in registers.
template <int... kI, typename Fn>
__device__ inline void CallEach(std::integer_sequence<int, kI...>, const Fn& fn) {
  (fn(kI), ...);
}
template <int N, typename Fn>
__device__ inline void Unrolled(const Fn& fn) {
  CallEach(std::make_integer_sequence<int, N>(), fn);
}

// kCount consecutive elements as f32, four or eight. The wide form wants them aligned to all of their bytes, or to 16.
inline constexpr int kEight = 8;
template <int kCount>
struct alignas(2 * kCount) PairBits {  // of bf16
  unsigned pairs[kCount / 2];
};
template <int kCount>
__device__ inline void LoadWide(const float* from, float* to) {
  for (int i = 0; i < kCount; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
  }
}
template <int kCount>
__device__ inline void LoadWide(const Bf16* from, float* to) {
  const auto bits = *reinterpret_cast<const PairBits<kCount>*>(from);
  for (int i = 0; i < kCount / 2; ++i) {
    to[2 * i] = __uint_as_float(bits.pairs[i] << 16);
    to[2 * i + 1] = __uint_as_float(bits.pairs[i] & 0xFFFF0000u);
  }
}
__device__ inline bool IsAligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
// Those of them that there are; `wide`: all, aligned.
template <int kCount, typename T>
__device__ inline void LoadUpTo(bool wide, const T* from, int64_t left, float* to) {
  if (wide) {
    LoadWide<kCount>(from, to);
    return;
  }
  for (int i = 0; i < kCount; ++i) to[i] = i < left ? Widen(from[i]) : 0.0f;
}

// The first `left` of eight consecutive elements, rounded; at once where they are all there and aligned.
template <typename T>
struct alignas(16) EightOf {
  T values[kEight];
};
template <typename T>
__device__ inline void StoreUpToEight(const float* from, int64_t left, T* to) {
  if (left >= kEight && IsAligned(to)) {
    EightOf<T> rounded;
    for (int i = 0; i < kEight; ++i) Put(from[i], rounded.values + i);
    *reinterpret_cast<EightOf<T>*>(to) = rounded;
    return;
  }
  for (int i = 0; i < kEight; ++i) {
    if (i < left) Put(from[i], to + i);
  }
}

// What stands for a result that has none, such as of a token that is not in the table: nothing waits for the host.
__device__ inline float NotANumber() { return __uint_as_float(0x7FC00000u); }

}  // namespace lorad::cuda
