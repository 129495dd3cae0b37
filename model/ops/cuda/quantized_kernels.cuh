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

// A byte an element.
template <Quantization kOf, class Number>
struct ByteQuad : PanelOf<kOf> {
  static constexpr int kColumns = 2;

  // w = W' of the quad's inputs and of the columns from `column` on.
  __device__ static void Load(const uint8_t* panel, int64_t g, int quad, int column, float (&w)[kColumns][kEight]) {
    const float* scales = reinterpret_cast<const float*>(ByteQuad::Factors(panel, g)) + column;
    const uint8_t* words = ByteQuad::Words(panel, g, quad) + 2 * column;
    for (int j = 0; j < cpu::kQuadWords; ++j) {
      const unsigned word = *reinterpret_cast<const unsigned*>(words + j * 2 * kPanelColumns);
      for (int i = 0; i < kColumns; ++i) {
        w[i][2 * j] = scales[i] * Number::Of(word >> 16 * i);
        w[i][2 * j + 1] = scales[i] * Number::Of(word >> (16 * i + 8));
      }
    }
  }
};
using Int8Quad = ByteQuad<Quantization::kInt8, Int8Number>;
using Fp8Quad = ByteQuad<Quantization::kFp8, E4m3Number>;

struct Int4Quad : PanelOf<Quantization::kInt4> {
  static constexpr int kColumns = 1;

  __device__ static void Load(const uint8_t* panel, int64_t g, int quad, int column, float (&w)[kColumns][kEight]) {
    const unsigned factors = reinterpret_cast<const unsigned*>(Factors(panel, g))[column];
    const float scale = __uint_as_float(factors << 16), zero = __uint_as_float(factors & 0xFFFF0000u);
    const unsigned nibbles = reinterpret_cast<const unsigned*>(Words(panel, g, quad))[column];
    for (int j = 0; j < cpu::kQuadWords; ++j) {
      w[0][2 * j] = fmaf(scale, static_cast<float>(static_cast<int>(nibbles >> 4 * j & 15u) - 8), zero);
      w[0][2 * j + 1] = fmaf(scale, static_cast<float>(static_cast<int>(nibbles >> (4 * j + 16) & 15u) - 8), zero);
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
    for (int step = 0; step < Lanes::kSteps; ++step) {
      const int quad = step * Lanes::kQuads + Lane() / Lanes::kOfQuad;
      float w[Quad::kColumns][kEight];
      Quad::Load(of_panel, g, quad, column, w);
      const int64_t k = g * kQuantizedGroup + quad * kEight, left = weight.in - k;
      for (int r = 0; r < R; ++r) {
        float inputs[kEight];
        LoadUpToEight(aligned && left >= kEight, x_row(r < rows ? r : 0) + k, left, inputs);
        for (int i = 0; i < Quad::kColumns; ++i) {
          for (int j = 0; j < kEight; ++j) acc[r][i] = fmaf(inputs[j], w[i][j], acc[r][i]);
        }
      }
    }
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

// One block a panel.
template <typename Quad, typename T, int R>
__global__ void QuantizedDotKernel(QuantizedColumns weight, int64_t rows, Rows<const T> x, Rows<T> y) {
  __shared__ DotSums<R> sums;
  const bool aligned = IsAligned(x.data) && IsAligned(x.data + x.stride);
  DotPanel<Quad, T, R>(
      weight, blockIdx.x, rows, aligned, [&](int64_t r) { return x.row(r); }, [&](int64_t r) { return y.row(r); },
      sums);
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
  float w[Quad::kColumns][kEight];
  Quad::Load(Quad::Panel(weight, panel, gridDim.y), g, quad, column, w);
  for (int i = 0; i < Quad::kColumns; ++i) {
    const int64_t c = panel * kPanelColumns + column + i;
    if (c < weight.columns) StoreUpToEight(w[i], left, to + c * weight.in + k);
  }
}

}  // namespace lorad::cuda
