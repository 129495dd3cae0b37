#include <tensor_cores.cuh>

#include <array>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "model/ops/cuda/launch.h"
#include "model/ops/cuda/operand_tiles.cuh"

// The emulator's tensor cores take and give what the PTX ISA says of mma.m16n8k16, and operands in shared memory are
// read as it wants them. Numbers are small integers, whose sums are exact in any order.
namespace lorad::cuda {
namespace {

using Matrix = std::vector<float>;  // by rows

Matrix Integers(int64_t count, int seed) {
  Matrix m;
  for (int64_t i = 0; i < count; ++i) m.push_back(static_cast<float>((i * 37 + seed * 11 + i * i * 5) % 17 - 8));
  return m;
}
std::vector<Bf16> Bf16Of(const Matrix& m) {
  std::vector<Bf16> bits;
  for (const float v : m) bits.push_back(__float2bfloat16_rn(v));
  return bits;
}
// a [rows, depth] b [depth, columns]
Matrix Product(const Matrix& a, const Matrix& b, int rows, int depth, int columns) {
  Matrix c(static_cast<size_t>(rows * columns));
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < columns; ++n) {
      for (int k = 0; k < depth; ++k) c[r * columns + n] += a[r * depth + k] * b[k * columns + n];
    }
  }
  return c;
}

// What one warp makes of a [rows, depth] and b [depth, columns].
Matrix OfOneWarp(void (*kernel)(const Bf16* a, const Bf16* b, float* c), const Matrix& a, const Matrix& b, int rows,
                 int columns) {
  const std::vector<Bf16> bits_of_a = Bf16Of(a), bits_of_b = Bf16Of(b);
  Matrix c(static_cast<size_t>(rows * columns));
  Launch(kernel, Grid(1), kWarp, nullptr, bits_of_a.data(), bits_of_b.data(), c.data());
  return c;
}

// Each element from where "Matrix Fragments for mma.m16n8k16 with floating point type" of the PTX ISA says, in its
// words: element i of a lane's fragment, two of them in a register.
__global__ void ByTheBook(const Bf16* a, const Bf16* b, float* c) {
  const int group = Lane() >> 2, in_group = Lane() % 4;
  unsigned of_a[4] = {}, of_b[2] = {};
  for (int i = 0; i < 8; ++i) {
    const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
    const int column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    of_a[i / 2] |= unsigned{a[row * 16 + column].bits} << (i % 2 * 16);
  }
  for (int i = 0; i < 4; ++i) {
    const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0), column = group;
    of_b[i / 2] |= unsigned{b[row * 8 + column].bits} << (i % 2 * 16);
  }
  float of_c[4] = {1.0f, 2.0f, 3.0f, 4.0f};
  MmaBf16(of_c, of_a, of_b);
  for (int i = 0; i < 4; ++i) {
    const int row = i < 2 ? group : group + 8, column = in_group * 2 + (i & 1);
    c[row * 8 + column] = of_c[i] - static_cast<float>(i + 1);
  }
}
TEST(TensorCoresTest, FragmentsLieAsThePtxIsaSays) {
  const Matrix a = Integers(16 * 16, 1), b = Integers(16 * 8, 2);
  EXPECT_EQ(OfOneWarp(&ByTheBook, a, b, 16, 8), Product(a, b, 16, 16, 8));
}

// Two warps of 16 rows, 32 deep, b as columns [64, 32] side by side.
__global__ void OfRows(const Bf16* a, const Bf16* b, float* c) {
  __shared__ RowsOperand<32, 32> of_a;
  __shared__ RowsOperand<64, 32> of_b;
  const int i = static_cast<int>(threadIdx.x);
  for (int at = i; at < 32 * 4; at += 64) of_a.PutEight(at / 4, at % 4 * 8, LoadEightBits(a + at * 8, 8));
  for (int at = i; at < 64 * 16; at += 64) {
    of_b.PutPair(at / 16, at % 16 * 2, PairOf(Widen(b[at * 2]), Widen(b[at * 2 + 1])));
  }
  __syncthreads();
  for (int n = 0; n < 8; ++n) {
    float sums[4] = {};
    for (int k = 0; k < 32; k += kMmaDepth) {
      unsigned rows[4], columns[2];
      of_a.LoadA(WarpOfBlock() * kMmaRows, k, rows);
      of_b.LoadB(n * kMmaColumns, k, columns);
      MmaBf16(sums, rows, columns);
    }
    for (int j = 0; j < 4; ++j) {
      const int row = WarpOfBlock() * kMmaRows + Lane() / 4 + j / 2 * 8;
      c[row * 64 + n * kMmaColumns + Lane() % 4 * 2 + j % 2] = sums[j];
    }
  }
}
TEST(TensorCoresTest, OperandsOfRowsAreMultipliedWhole) {
  const Matrix a = Integers(32 * 32, 3), b = Integers(32 * 64, 4);
  Matrix columns_of_b(64 * 32);
  for (int k = 0; k < 32; ++k) {
    for (int n = 0; n < 64; ++n) columns_of_b[n * 32 + k] = b[k * 64 + n];
  }
  // Wide loads where a begins, scalar ones behind it.
  for (const size_t first : {0, 1}) {
    std::vector<Bf16> bits_of_a(8 + a.size());
    const std::vector<Bf16> from = Bf16Of(a), bits_of_b = Bf16Of(columns_of_b);
    std::copy(from.begin(), from.end(), bits_of_a.begin() + static_cast<int64_t>(first));
    Matrix c(32 * 64);
    Launch(&OfRows, Grid(1), 2 * kWarp, nullptr, bits_of_a.data() + first, bits_of_b.data(), c.data());
    EXPECT_EQ(c, Product(a, b, 32, 32, 64)) << first;
  }
}

// 16 rows, 16 deep, b [16, 128] as it lies; a lane writes its neighbouring columns.
__global__ void OfColumns(const Bf16* a, const Bf16* b, float* c) {
  __shared__ RowsOperand<16, 16> of_a;
  __shared__ ColumnsOperand<16, 128> of_b;
  const int i = static_cast<int>(threadIdx.x);
  of_a.PutEight(i / 2, i % 2 * 8, LoadEightBits(a + i * 8, 8));
  for (int at = i; at < 8 * 16; at += kWarp) {
    const int k = at / 16 * 2, column = at % 16 * 8;
    of_b.PutEight(k, column, LoadEightBits(b + k * 128 + column, 8), LoadEightBits(b + (k + 1) * 128 + column, 8));
  }
  __syncwarp();
  for (int first = 0; first < 128; first += kColumnsOfWarp) {
    for (int n = 0; n < kColumnsOfLane / 2; ++n) {
      unsigned rows[4], columns[2];
      float sums[4] = {};
      of_a.LoadA(0, 0, rows);
      of_b.LoadB(first, n, 0, columns);
      MmaBf16(sums, rows, columns);
      for (int j = 0; j < 4; ++j) {
        const int row = Lane() / 4 + j / 2 * 8;
        c[row * 128 + first + Lane() % 4 * kColumnsOfLane + 2 * n + j % 2] = sums[j];
      }
    }
  }
}
TEST(TensorCoresTest, ALaneHoldsNeighboursOfOperandsOfColumns) {
  const Matrix a = Integers(16 * 16, 5), b = Integers(16 * 128, 6);
  EXPECT_EQ(OfOneWarp(&OfColumns, a, b, 16, 128), Product(a, b, 16, 16, 128));
}

__global__ void LoadsAndStores(const Bf16* from, int64_t left, Bf16* to) {
  StoreEightBits(LoadEightBits(from, left), left, to);
}
TEST(TensorCoresTest, EightElementsOrAsManyAsThereAreGoAnywhere) {
  const std::vector<Bf16> values = Bf16Of({1, -2, 3, -4, 5, -6, 7, -8});
  alignas(16) std::array<Bf16, 24> from, to;
  for (const int first : {0, 1, 8}) {
    for (int left = 0; left <= 8; ++left) {
      from.fill(Bf16{0x7FFF});
      to.fill(Bf16{0x7FFF});
      std::copy_n(values.begin(), left, from.begin() + first);
      Launch(&LoadsAndStores, Grid(1), 1, nullptr, from.data() + first, int64_t{left}, to.data() + first);
      EXPECT_EQ(std::memcmp(from.data(), to.data(), sizeof(from)), 0) << first << " " << left;
    }
  }
}

__global__ void WideStoreBetween(int i) {
  __shared__ SharedArray<unsigned, 16> shared;
  shared.PutFour(i, {1, 2, 3, 4});
}
TEST(TensorCoresTest, AWideStoreBesideItsAlignmentIsAFault) {
  const auto at = [](int i) { return [i] { Launch(&WideStoreBetween, Grid(1), 1, nullptr, i); }; };
  EXPECT_NO_THROW(at(12)());
  for (const int i : {2, 16}) EXPECT_THROW(at(i)(), emulator::KernelFault) << i;
}

}  // namespace
}  // namespace lorad::cuda
