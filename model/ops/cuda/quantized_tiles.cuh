#pragma once

#include <tensor_cores.cuh>

#include "model/ops/cuda/operand_tiles.cuh"
#include "model/ops/cuda/quantized_kernels.cuh"
#include "model/ops/cuda/quantized_tiles.h"

// A warp has one panel, whose sixteen columns are the rows of its products; rows of x are their columns, eight at a
// time. Lane 4 g + t has columns 2 g and 2 g + 1, as rows g and g + 8 of a product, and of a group quads t and t + 4:
// which inputs meet in a product is free, as long as both operands have the same ones in the same place. So a lane
// loads words as they lie, and eight consecutive elements of x.
namespace lorad::cuda {

inline constexpr int kTileWarps = static_cast<int>(kTileColumns) / kPanelColumns;
inline constexpr int kTileThreads = kTileWarps * kWarp;
inline constexpr int kGroupsOfStep = static_cast<int>(kTileStepInputs / kQuantizedGroup);
inline constexpr int kLaneColumns = 2, kLaneQuads = 2, kPairsOfQuad = kEight / 2;
__device__ inline int LaneColumn() { return Lane() / 4 * kLaneColumns; }
__device__ inline int LaneQuad(int i) { return Lane() % 4 + 4 * i; }

// q of two inputs as bf16, which hold it exactly. 128 + u has the seven bits of u in its lowest; what is too much is
// taken off, 128 more of a negative number.
__device__ inline unsigned Subtracted(unsigned from, unsigned what) {
  return MultiplyAddPairs(what, /*-1, -1*/ 0xBF80BF80u, from);
}
struct Int8Pair {
  __device__ static unsigned Of(unsigned bytes) {  // in bits 0-7 and 16-23
    return Subtracted((bytes & 0x007F007Fu) | 0x43004300u, (bytes & 0x00800080u) | 0x43004300u);
  }
};
struct E4m3Pair {  // as E4m3Number; - 0 keeps a zero's sign
  __device__ static unsigned Of(unsigned bytes) {
    return MultiplyAddPairs((bytes & 0x00800080u) << 8 | (bytes & 0x007F007Fu) << 4, /*2^120, 2^120*/ 0x7B807B80u,
                            /*-0, -0*/ 0x80008000u);
  }
};

// What a lane has of a group, as it lies in memory.
template <Quantization kOf, class Numbers>
struct ByteTile : PanelOf<kOf> {
  static constexpr bool kScalesGroups = ByteTile::kFactorStride != 0;
  static constexpr bool kHasZeros = false;
  struct Raw {
    unsigned words[kLaneQuads][kPairsOfQuad];
    float2 scales;
  };

  __device__ static void Fetch(const uint8_t* panel, int64_t g, Raw& raw) {
    for (int h = 0; h < kLaneQuads; ++h) {
      const uint8_t* words = ByteTile::Words(panel, g, LaneQuad(h)) + 2 * LaneColumn();
      for (int j = 0; j < kPairsOfQuad; ++j) {
        raw.words[h][j] = *reinterpret_cast<const unsigned*>(words + j * 2 * kPanelColumns);
      }
    }
    if constexpr (kScalesGroups) raw.scales = ScalesOf(panel, g);
  }
  __device__ static float2 ScalesOf(const uint8_t* panel, int64_t g) {
    return reinterpret_cast<const float2*>(ByteTile::Factors(panel, g))[LaneColumn() / 2];
  }
  // q of pair j of the lane's quad h and column i.
  __device__ static unsigned PairOf(const Raw& raw, int h, int j, int i) {
    return Numbers::Of(__byte_perm(raw.words[h][j], 0, i == 0 ? 0x4140 : 0x4342));
  }
  __device__ static float Scale(const Raw& raw, int i) { return i == 0 ? raw.scales.x : raw.scales.y; }
};
using Int8Tile = ByteTile<Quantization::kInt8, Int8Pair>;
using Fp8Tile = ByteTile<Quantization::kFp8, E4m3Pair>;

struct Int4Tile : PanelOf<Quantization::kInt4> {
  static constexpr bool kScalesGroups = true;
  static constexpr bool kHasZeros = true;
  struct Raw {
    uint2 nibbles[kLaneQuads];
    uint2 factors;
  };

  __device__ static void Fetch(const uint8_t* panel, int64_t g, Raw& raw) {
    for (int h = 0; h < kLaneQuads; ++h) {
      raw.nibbles[h] = reinterpret_cast<const uint2*>(Words(panel, g, LaneQuad(h)))[LaneColumn() / 2];
    }
    raw.factors = reinterpret_cast<const uint2*>(Factors(panel, g))[LaneColumn() / 2];
  }
  __device__ static unsigned PairOf(const Raw& raw, int h, int j, int i) {
    const unsigned nibbles = i == 0 ? raw.nibbles[h].x : raw.nibbles[h].y;
    return Subtracted((nibbles >> 4 * j & 0x000F000Fu) | 0x43004300u, /*136, 136*/ 0x43084308u);
  }
  __device__ static float Scale(const Raw& raw, int i) { return FirstOf(i == 0 ? raw.factors.x : raw.factors.y); }
  __device__ static float Zero(const Raw& raw, int i) { return SecondOf(i == 0 ? raw.factors.x : raw.factors.y); }
};

// A step of x in shared memory: eight elements at a time, rows so far apart that the eight lanes that read together
// (two rows, four neighbours each) meet all banks. With zeros, each row's sum over each group, too.
template <int kRows, bool kSums>
struct StepOfRows {
  static constexpr int kStride = static_cast<int>(kTileStepInputs) / 2 + 16;

  __device__ void Put(int row, int quad, const EightBits& eight) {
    const unsigned(&pairs)[4] = eight.pairs;
    words.PutFour(row * kStride + quad * kPairsOfQuad, {pairs[0], pairs[1], pairs[2], pairs[3]});
  }
  __device__ uint4 Quad(int row, int quad) { return words.Four(row * kStride + quad * kPairsOfQuad); }

  SharedArray<unsigned, kRows * kStride> words;
  SharedArray<float, kSums ? kGroupsOfStep * kRows : 1> sums;
};

// How the threads of a block load a step: eight elements of one row of each kRowsAtOnce.
template <int kRows>
struct RowLoads {
  static constexpr int kThreadsOfRow = static_cast<int>(kTileStepInputs) / kEight;
  static constexpr int kRowsAtOnce = kTileThreads / kThreadsOfRow;
  static constexpr int kLoads = (kRows + kRowsAtOnce - 1) / kRowsAtOnce;

  __device__ RowLoads(const Rows<const Bf16>& x, int64_t first_row, int64_t rows, int64_t in)
      : from(x.row(first_row + Row(0)) + Quad() * kEight),
        to_next_row(static_cast<int>(kRowsAtOnce * x.stride)),
        left(static_cast<int>(in) - Quad() * kEight),
        rows_left(static_cast<int>(rows < kRows ? rows : kRows) - Row(0)),
        wide(IsAligned(x.data) && x.stride % kEight == 0 && in % kEight == 0) {}
  // The next step. Zeros for rows that there are not, and behind the last input.
  __device__ void Load() {
    if (wide) {
      Unrolled<kLoads>([&](int i) {
        const bool there = i * kRowsAtOnce < rows_left && left > 0;
        next[i] = there ? *reinterpret_cast<const EightBits*>(from + i * to_next_row) : EightBits{};
      });
    } else {
      Unrolled<kLoads>(
          [&](int i) { next[i] = LoadEightBits(from + i * to_next_row, i * kRowsAtOnce < rows_left ? left : 0); });
    }
    from += kTileStepInputs, left -= static_cast<int>(kTileStepInputs);
  }
  template <bool kSums>
  __device__ void PutTo(StepOfRows<kRows, kSums>& step) const {
    Unrolled<kLoads>([&](int i) {
      if (Row(i) < kRows) step.Put(Row(i), Quad(), next[i]);
      if constexpr (kSums) {
        float sum = 0.0f;
        for (const unsigned pair : next[i].pairs) sum += FirstOf(pair) + SecondOf(pair);
        for (int distance = kQuadsOfGroup / 2; distance > 0; distance /= 2) {
          sum += __shfl_xor_sync(kAllLanes, sum, distance);
        }
        if (Row(i) < kRows && Quad() % kQuadsOfGroup == 0) step.sums[Quad() / kQuadsOfGroup * kRows + Row(i)] = sum;
      }
    });
  }
  __device__ static int Row(int i) { return i * kRowsAtOnce + static_cast<int>(threadIdx.x) / kThreadsOfRow; }
  __device__ static int Quad() { return static_cast<int>(threadIdx.x) % kThreadsOfRow; }

  const Bf16* from;  // the thread's first elements of the next step
  int to_next_row, left, rows_left;
  bool wide;
  EightBits next[kLoads];
};

// sums[n] are of rows 8 n …: two of each column of the lane. Group i of the step.
template <typename Tile, int kRows>
__device__ inline void MultiplyGroup(const unsigned (&a)[2 * kLaneQuads][4], const float (&scales)[kLaneColumns],
                                     const float (&zeros)[kLaneColumns], int i,
                                     StepOfRows<kRows, Tile::kHasZeros>& step, float (&sums)[kRows / kMmaColumns][4]) {
  constexpr int kTiles = kRows / kMmaColumns, kAtOnce = kTiles < 2 ? kTiles : 2;  // products in flight beside others'
  Unrolled<kTiles / kAtOnce>([&](int pass) {
    float of_group[kAtOnce][4] = {};
    Unrolled<kLaneQuads>([&](int h) {
      Unrolled<kAtOnce>([&](int m) {
        const int n = pass * kAtOnce + m;
        const uint4 x = step.Quad(n * kMmaColumns + Lane() / 4, i * kQuadsOfGroup + LaneQuad(h));
        float(&to)[4] = Tile::kScalesGroups ? of_group[m] : sums[n];
        MmaBf16(to, a[2 * h], {x.x, x.y});
        MmaBf16(to, a[2 * h + 1], {x.z, x.w});
      });
    });
    if constexpr (Tile::kScalesGroups) {
      Unrolled<kAtOnce>([&](int m) {
        const int n = pass * kAtOnce + m;
        Unrolled<4>([&](int j) {
          sums[n][j] = fmaf(scales[j / 2], of_group[m][j], sums[n][j]);
          if constexpr (Tile::kHasZeros) {
            const float of_x = step.sums[i * kRows + n * kMmaColumns + Lane() % 4 * 2 + j % 2];
            sums[n][j] = fmaf(zeros[j / 2], of_x, sums[n][j]);
          }
        });
      });
    }
  });
}

// Where sums go: y where the inputs are one slice, else f32 [slices, rows, width] to be added.
struct TileResults {
  Rows<Bf16> y;
  float* parts;
  int64_t width;  // whole panels
};

// Block (rows, columns; slice): kRows rows by kTileColumns, those of the same columns side by side in time. A step's
// words are fetched while those of the step before are multiplied, x as well. More than 32 rows would take more
// registers than two blocks of a multiprocessor have.
template <typename Tile, int kRows>
__global__ void __launch_bounds__(kTileThreads, 2)
    QuantizedTilesKernel(QuantizedColumns weight, int64_t rows, Rows<const Bf16> x, TileResults to) {
  __shared__ StepOfRows<kRows, Tile::kHasZeros> step;
  const unsigned row_tiles = (static_cast<unsigned>(rows) + kRows - 1) / kRows;
  const int first_row = static_cast<int>(blockIdx.x % row_tiles) * kRows,
            rows_left = static_cast<int>(rows) - first_row;
  const int number = static_cast<int>(blockIdx.x / row_tiles) * kTileWarps + WarpOfBlock();  // of the panel
  const bool has_panel = int64_t{number} * kPanelColumns < weight.columns;
  const int64_t groups = (weight.in + kQuantizedGroup - 1) / kQuantizedGroup;
  const uint8_t* panel = Tile::Panel(weight, has_panel ? number : 0, groups);
  const int64_t steps = (groups + kGroupsOfStep - 1) / kGroupsOfStep;
  const int groups_of_slice = static_cast<int>((steps + gridDim.y - 1) / gridDim.y) * kGroupsOfStep;
  const int begin = static_cast<int>(blockIdx.y) * groups_of_slice;
  const int left = static_cast<int>(groups) - begin, end = begin + (left < groups_of_slice ? left : groups_of_slice);

  typename Tile::Raw raw[kGroupsOfStep];
  const int64_t first_input = begin * kQuantizedGroup;
  RowLoads<kRows> of_x({x.data + first_input, x.stride}, first_row, rows_left, weight.in - first_input);
  float sums[kRows / kMmaColumns][4] = {};
  const auto fetch = [&](int g, int i) {
    if (has_panel && g < end) Tile::Fetch(panel, g, raw[i]);
  };
  Unrolled<kGroupsOfStep>([&](int i) { fetch(begin + i, i); });
  of_x.Load();
  for (int g = begin; g < end; g += kGroupsOfStep) {
    __syncthreads();  // the step before has been multiplied
    of_x.PutTo(step);
    __syncthreads();
    if (g + kGroupsOfStep < end) of_x.Load();
    Unrolled<kGroupsOfStep>([&](int i) {
      if (!has_panel || g + i >= end) return;
      unsigned a[2 * kLaneQuads][4];
      float scales[kLaneColumns] = {}, zeros[kLaneColumns] = {};
      Unrolled<2 * kLaneQuads>(
          [&](int s) { Unrolled<4>([&](int j) { a[s][j] = Tile::PairOf(raw[i], s / 2, s % 2 * 2 + j / 2, j % 2); }); });
      Unrolled<kLaneColumns>([&](int c) {
        if constexpr (Tile::kScalesGroups) scales[c] = Tile::Scale(raw[i], c);
        if constexpr (Tile::kHasZeros) zeros[c] = Tile::Zero(raw[i], c);
      });
      fetch(g + i + kGroupsOfStep, i);
      MultiplyGroup<Tile, kRows>(a, scales, zeros, i, step, sums);
    });
  }

  if (!has_panel) return;
  const int64_t column = int64_t{number} * kPanelColumns + LaneColumn();
  float last_scales[kLaneColumns] = {1.0f, 1.0f};
  if constexpr (!Tile::kScalesGroups) {
    const float2 scales = Tile::ScalesOf(panel, 0);
    last_scales[0] = scales.x, last_scales[1] = scales.y;
  }
  Unrolled<kRows / kMmaColumns>([&](int n) {
    Unrolled<2>([&](int j) {
      const int row = n * kMmaColumns + Lane() % 4 * 2 + j;
      if (row >= rows_left) return;
      const float first = sums[n][j] * last_scales[0], second = sums[n][2 + j] * last_scales[1];
      if (to.parts != nullptr) {
        float* part = to.parts + (blockIdx.y * rows + first_row + row) * to.width + column;
        *reinterpret_cast<float2*>(part) = {first, second};
        return;
      }
      Bf16* y = to.y.row(first_row + row) + column;
      if (column < weight.columns) Put(first, y);
      if (column + 1 < weight.columns) Put(second, y + 1);
    });
  });
}

// y = the parts' sums, in order. Block (columns, row), a column a thread.
inline constexpr int kAddPartsThreads = 128;
__global__ void AddPartsKernel(TileResults results, int64_t rows, int64_t columns, int slices) {
  const int64_t row = blockIdx.y, column = int64_t{blockIdx.x} * kAddPartsThreads + threadIdx.x;
  if (column >= columns) return;
  const float* part = results.parts + row * results.width + column;
  float sum = 0.0f;
  for (int slice = 0; slice < slices; ++slice) sum += part[slice * rows * results.width];
  Put(sum, results.y.row(row) + column);
}

}  // namespace lorad::cuda
