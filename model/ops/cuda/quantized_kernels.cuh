#pragma once

#include "model/ops/cpu/quantized_panels.h"
#include "model/ops/cuda/device_code.cuh"
#include "model/ops/cuda/quantized_kernels.h"

// What a lane takes of a panel at a time is a quad: eight inputs of one column or two. W' is made in f32 as
// model/quantization.h says, and multiplied as it is.
namespace lorad::cuda {

inline constexpr int kPanelColumns = static_cast<int>(cpu::kPanelColumns);
inline constexpr int kQuadsOfGroup = static_cast<int>(kQuantizedGroup) / kEight;

// Where a group's factors and words lie in its panel.
template <Quantization kOf>
struct PanelOf {
  static constexpr Quantization kQuantization = kOf;
  static constexpr int64_t kQuadBytes = cpu::QuadBytes(kOf);
  static constexpr int64_t kBlockBytes = cpu::BlockBytes(kOf);
  static constexpr int64_t kFactorStride = cpu::FactorStride(kOf);
  static constexpr int64_t kHeadBytes = cpu::QuantizedPanelBytes(kOf, /*in=*/0);  // beside the groups' blocks

  __device__ static const uint8_t* Panel(const QuantizedColumns& weight, int64_t panel, int64_t groups) {
    return weight.panels + panel * (kHeadBytes + groups * kBlockBytes);
  }
  __device__ static const uint8_t* Factors(const uint8_t* panel, int64_t g) { return panel + g * kFactorStride; }
  __device__ static const uint8_t* Words(const uint8_t* panel, int64_t g, int quad) {
    return panel + cpu::kFactorBytes + g * kBlockBytes + quad * kQuadBytes;
  }
};

// q of a byte of int8.
struct Int8Number {
  __device__ static float Of(unsigned byte) { return static_cast<float>(static_cast<int8_t>(byte)); }
};
// Of fp8: its bits at their places in a float are one of 2^-120 of the value, denormal or not (model/e4m3.h). No device
// is asked for instructions of its own.
struct E4m3Number {
  __device__ static float Of(unsigned byte) {
    return __uint_as_float((byte & 0x80u) << 24 | (byte & 0x7Fu) << 20) * 0x1p120f;
  }
};

// A quad's words and factors as they lie in memory are fetched, then made W' of the quad's inputs and of the columns
// from `column` on: what is fetched early, nobody waits for.

// A byte an element.
template <Quantization kOf, class Number>
struct ByteQuad : PanelOf<kOf> {
  static constexpr int kColumns = 2;
  struct Raw {
    unsigned words[cpu::kQuadWords];
    float scales[kColumns];
  };

  __device__ static void Fetch(const uint8_t* panel, int64_t g, int quad, int column, Raw& raw) {
    const float* scales = reinterpret_cast<const float*>(ByteQuad::Factors(panel, g)) + column;
    const uint8_t* words = ByteQuad::Words(panel, g, quad) + 2 * column;
    for (int j = 0; j < cpu::kQuadWords; ++j) {
      raw.words[j] = *reinterpret_cast<const unsigned*>(words + j * 2 * kPanelColumns);
    }
    for (int i = 0; i < kColumns; ++i) raw.scales[i] = scales[i];
  }
  __device__ static void Make(const Raw& raw, float (&w)[kColumns][kEight]) {
    for (int j = 0; j < cpu::kQuadWords; ++j) {
      for (int i = 0; i < kColumns; ++i) {
        w[i][2 * j] = raw.scales[i] * Number::Of(raw.words[j] >> 16 * i);
        w[i][2 * j + 1] = raw.scales[i] * Number::Of(raw.words[j] >> (16 * i + 8));
      }
    }
  }
};
using Int8Quad = ByteQuad<Quantization::kInt8, Int8Number>;
using Fp8Quad = ByteQuad<Quantization::kFp8, E4m3Number>;

struct Int4Quad : PanelOf<Quantization::kInt4> {
  static constexpr int kColumns = 1;
  struct Raw {
    unsigned nibbles, factors;
  };

  __device__ static void Fetch(const uint8_t* panel, int64_t g, int quad, int column, Raw& raw) {
    raw.factors = reinterpret_cast<const unsigned*>(Factors(panel, g))[column];
    raw.nibbles = reinterpret_cast<const unsigned*>(Words(panel, g, quad))[column];
  }
  __device__ static void Make(const Raw& raw, float (&w)[kColumns][kEight]) {
    const float scale = __uint_as_float(raw.factors << 16), zero = __uint_as_float(raw.factors & 0xFFFF0000u);
    for (int j = 0; j < cpu::kQuadWords; ++j) {
      w[0][2 * j] = fmaf(scale, static_cast<float>(static_cast<int>(raw.nibbles >> 4 * j & 15u) - 8), zero);
      w[0][2 * j + 1] = fmaf(scale, static_cast<float>(static_cast<int>(raw.nibbles >> (4 * j + 16) & 15u) - 8), zero);
    }
  }
};

// How the lanes of a warp share a panel's group.
template <typename Quad>
struct LanesOf {
  static constexpr int kOfQuad = kPanelColumns / Quad::kColumns;
  static constexpr int kQuads = kWarp / kOfQuad;  // side by side
  static constexpr int kSteps = kQuadsOfGroup / kQuads;
};

// acc[r][i] += the sum over eight inputs of row r and column i. kWide: all are there, aligned. Loads of several rows
// are in flight together, so no branch may lie between them.
template <typename T, int R, int kColumns, bool kWide, typename InputsOf>
__device__ inline void AddRows(const float (&w)[kColumns][kEight], int64_t left, const InputsOf& inputs_of,
                               float (&acc)[R][kColumns]) {
  constexpr int kMostAtOnce = 16 / static_cast<int>(sizeof(T)), kAtOnce = R < kMostAtOnce ? R : kMostAtOnce;
  for (int first = 0; first < R; first += kAtOnce) {
    EightOf<T> x[kAtOnce];
    for (int r = 0; r < kAtOnce; ++r) {
      const T* from = inputs_of(first + r);
      if constexpr (kWide) {
        x[r] = *reinterpret_cast<const EightOf<T>*>(from);
      } else {
        for (int j = 0; j < kEight; ++j) Put(j < left ? Widen(from[j]) : 0.0f, x[r].values + j);
      }
    }
    for (int r = 0; r < kAtOnce; ++r) {
      for (int i = 0; i < kColumns; ++i) {
        for (int j = 0; j < kEight; ++j) acc[first + r][i] = fmaf(Widen(x[r].values[j]), w[i][j], acc[first + r][i]);
      }
    }
  }
}

// A block's part of a product: one panel by R rows, of which `rows` are real; its warps take groups in turn. The sum of
// a row and a column runs over a lane's quads, then over the lanes, then over the warps, however many rows there are.
// x_row(r) and y_row(r): where the rows of the inputs and of the weight's columns begin.
inline constexpr int kDotWarps = 8;
template <int R>
using DotSums = SharedArray<float, kDotWarps * R * kPanelColumns>;
template <typename Quad, typename T, int R, typename InputRow, typename OutputRow>
__device__ void DotPanel(const QuantizedColumns& weight, int64_t panel, int64_t rows, bool aligned,
                         const InputRow& x_row, const OutputRow& y_row, DotSums<R>& sums) {
  using Lanes = LanesOf<Quad>;
  const int64_t groups = (weight.in + kQuantizedGroup - 1) / kQuantizedGroup;
  const uint8_t* of_panel = Quad::Panel(weight, panel, groups);
  const int column = Lane() % Lanes::kOfQuad * Quad::kColumns;
  float acc[R][Quad::kColumns] = {};
  for (int64_t g = WarpOfBlock(); g < groups; g += kDotWarps) {
    typename Quad::Raw raw[Lanes::kSteps];
    Unrolled<Lanes::kSteps>(
        [&](int step) { Quad::Fetch(of_panel, g, step * Lanes::kQuads + Lane() / Lanes::kOfQuad, column, raw[step]); });
    Unrolled<Lanes::kSteps>([&](int step) {
      const int quad = step * Lanes::kQuads + Lane() / Lanes::kOfQuad;
      const int64_t k = g * kQuantizedGroup + quad * kEight, left = weight.in - k;
      const auto inputs_of = [&](int r) { return x_row(r < rows ? r : 0) + k; };
      float w[Quad::kColumns][kEight];
      Quad::Make(raw[step], w);
      if (aligned && left >= kEight) {
        AddRows<T, R, Quad::kColumns, true>(w, left, inputs_of, acc);
      } else {
        AddRows<T, R, Quad::kColumns, false>(w, left, inputs_of, acc);
      }
    });
  }
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < Quad::kColumns; ++i) {
      float sum = acc[r][i];
      for (int distance = kWarp / 2; distance >= Lanes::kOfQuad; distance /= 2) {
        sum += __shfl_xor_sync(kAllLanes, sum, distance);
      }
      if (Lane() < Lanes::kOfQuad) sums[(WarpOfBlock() * R + r) * kPanelColumns + column + i] = sum;
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < R * kPanelColumns; i += static_cast<int>(blockDim.x)) {
    const int64_t r = i / kPanelColumns, c = panel * kPanelColumns + i % kPanelColumns;
    if (r >= rows || c >= weight.columns) continue;
    float total = 0.0f;
    for (int w = 0; w < kDotWarps; ++w) total += sums[w * R * kPanelColumns + i];
    Put(total, y_row(r) + c);
  }
}

// Block (rows, panel): R of the rows, those of one panel side by side in time.
template <typename Quad, typename T, int R>
__global__ void __launch_bounds__(kDotWarps* kWarp, 2)
    QuantizedDotKernel(QuantizedColumns weight, int64_t rows, Rows<const T> x, Rows<T> y) {
  __shared__ DotSums<R> sums;
  const int64_t first = int64_t{blockIdx.x} * R;
  const bool aligned = IsAligned(x.data) && IsAligned(x.data + x.stride);
  DotPanel<Quad, T, R>(
      weight, blockIdx.y, rows - first, aligned, [&](int64_t r) { return x.row(first + r); },
      [&](int64_t r) { return y.row(first + r); }, sums);
}

// Block (panel, group); a thread makes a quad, and eight neighbours write 64 inputs of a row side by side.
template <typename Quad>
inline constexpr int kDequantizeThreads = LanesOf<Quad>::kOfQuad* kQuadsOfGroup;
template <typename Quad, typename T>
__global__ void DequantizeKernel(QuantizedColumns weight, T* to) {
  const int64_t panel = blockIdx.x, g = blockIdx.y;
  const int quad = static_cast<int>(threadIdx.x) % kQuadsOfGroup;
  const int column = static_cast<int>(threadIdx.x) / kQuadsOfGroup * Quad::kColumns;
  const int64_t k = g * kQuantizedGroup + quad * kEight, left = weight.in - k;
  typename Quad::Raw raw;
  Quad::Fetch(Quad::Panel(weight, panel, gridDim.y), g, quad, column, raw);
  float w[Quad::kColumns][kEight];
  Quad::Make(raw, w);
  for (int i = 0; i < Quad::kColumns; ++i) {
    const int64_t c = panel * kPanelColumns + column + i;
    if (c < weight.columns) StoreUpToEight(w[i], left, to + c * weight.in + k);
  }
}

}  // namespace lorad::cuda
