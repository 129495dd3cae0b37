#include "model/ops/cpu/bf16_products.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "hwy/targets.h"
#include "model/base/check.h"
#include "model/ops/cpu/dot_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

// Behind the includes, so that nothing shared with other sources is compiled for these processors alone.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace lorad::cpu {
namespace {

constexpr int64_t kStep = 32;               // elements of one instruction
constexpr int64_t kFewBytes = 24 << 10;     // of rows that stay in L1 beside the weights of a few columns
constexpr int64_t kShortRow = 1024;         // elements; one row reads columns that short one after the other
constexpr int64_t kFetchedRow = 2047;       // elements; on rows up to that the processor's own prefetch is late
constexpr int64_t kBlockBytes = 128 << 10;  // of weights that stay in L2 for many rows

__m512bh Load(const uint16_t* p) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
__m512bh LoadTail(const uint16_t* p, int64_t n) {
  return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << n) - 1), p));
}

// {sum of a, of b, of c, of d}, each in the same order.
__m128 Sum4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d wide_ab = _mm512_castps_pd(ab), wide_cd = _mm512_castps_pd(cd);
  const __m512 sums = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(wide_ab, wide_cd)),
                                    _mm512_castpd_ps(_mm512_unpackhi_pd(wide_ab, wide_cd)));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

template <int C>
void Put(__m128 sums, float* y) {
  if constexpr (C == 4) {
    _mm_storeu_ps(y, sums);
  } else {
    _mm_store_ss(y, sums);
  }
}
template <int C>
void Put(__m128 sums, uint16_t* y) {
  const __m128bh rounded = _mm_cvtneps_pbh(sums);
  std::memcpy(y, &rounded, C * sizeof(uint16_t));
}

// Columns w.. of C rows of weights against R packed rows. Meanwhile fetches kLines cache lines a step from `ahead` on.
template <int C, int R, int kLines, _mm_hint kHint, typename Y>
[[gnu::always_inline]] inline void Tile(const Bf16DotArgs& a, const uint16_t* x, const uint16_t* w,
                                        const uint16_t* ahead, Y* y) {
  __m512 acc[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + kStep <= a.in; k += kStep, x += R * kStep) {
    __m512bh wc[C];
    for (int c = 0; c < C; ++c) wc[c] = Load(w + c * a.w_stride + k);
    for (int i = 0; i < kLines; ++i) _mm_prefetch(ahead + k * kLines + i * kStep, kHint);
    for (int r = 0; r < R; ++r) {
      const __m512bh xr = Load(x + r * kStep);
      for (int c = 0; c < C; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xr, wc[c]);
    }
  }
  if (k < a.in) {
    for (int c = 0; c < C; ++c) {
      const __m512bh tail = LoadTail(w + c * a.w_stride + k, a.in - k);
      for (int r = 0; r < R; ++r) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], Load(x + r * kStep), tail);
    }
  }
  const __m512 none = _mm512_setzero_ps();
  for (int r = 0; r < R; ++r) {
    if constexpr (C == 1) {
      Put<1>(Sum4(acc[r][0], none, none, none), y + r * a.y_stride);
    } else {
      for (int c = 0; c < C; c += 4) {
        Put<4>(Sum4(acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]), y + r * a.y_stride + c);
      }
    }
  }
}

// A short row of x against 4 columns, one column after the other: the weights are read from front to back.
template <typename Y>
void ShortRow(const Bf16DotArgs& a, const uint16_t* w, Y* y) {
  __m512 acc[4];
  for (int c = 0; c < 4; ++c, w += a.w_stride) {
    acc[c] = _mm512_setzero_ps();
    int64_t k = 0;
    for (; k + kStep <= a.in; k += kStep) acc[c] = _mm512_dpbf16_ps(acc[c], Load(a.x + k), Load(w + k));
    if (k < a.in) acc[c] = _mm512_dpbf16_ps(acc[c], Load(a.x + k), LoadTail(w + k, a.in - k));
  }
  Put<4>(Sum4(acc[0], acc[1], acc[2], acc[3]), y);
}

template <int C, int kLines, _mm_hint kHint = _MM_HINT_T0, typename Y>
void TileOf(int64_t rows, const Bf16DotArgs& a, const uint16_t* x, const uint16_t* w, const uint16_t* ahead, Y* y) {
  static_assert(kRowsPerTile == 6);
  switch (rows) {
    case 6:
      return Tile<C, 6, kLines, kHint>(a, x, w, ahead, y);
    case 5:
      return Tile<C, 5, kLines, kHint>(a, x, w, ahead, y);
    case 4:
      return Tile<C, 4, kLines, kHint>(a, x, w, ahead, y);
    case 3:
      return Tile<C, 3, kLines, kHint>(a, x, w, ahead, y);
    case 2:
      return Tile<C, 2, kLines, kHint>(a, x, w, ahead, y);
    default:
      return Tile<C, 1, kLines, kHint>(a, x, w, ahead, y);
  }
}

int64_t Padded(int64_t in) { return (in + kStep - 1) / kStep * kStep; }

// Every row tile against C columns; kAhead: fetches the next C columns, which lie behind them, on the way.
template <int C, bool kAhead, typename Y>
void AllTiles(const Bf16DotArgs& a, int64_t c, Y* y) {
  const int64_t tiles = RowTiles(a.rows);
  const uint16_t* w = a.w + c * a.w_stride;
  const uint16_t* ahead = w + C * a.w_stride;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t r = FirstRowOfTile(a.rows, t), rows = FirstRowOfTile(a.rows, t + 1) - r;
    const uint16_t* x = a.x + r * Padded(a.in);
    Y* out = y + r * a.y_stride + c;
    if (kAhead && tiles == 1) {
      TileOf<C, 4>(rows, a, x, w, ahead, out);
    } else if (kAhead && t < 2) {
      TileOf<C, 2>(rows, a, x, w, ahead + t * 2 * a.in, out);
    } else {
      TileOf<C, 0>(rows, a, x, w, nullptr, out);
    }
  }
}

template <typename Y>
void DotFewRows(const Bf16DotArgs& a, Y* y) {
  int64_t c = 0;
  if (a.rows == 1 && a.in <= kShortRow) {
    for (; c + 4 <= a.columns; c += 4) ShortRow(a, a.w + c * a.w_stride, y + c);
  } else if (a.rows == 1) {
    for (; c + 8 <= a.columns; c += 8) Tile<8, 1, 0, _MM_HINT_T0>(a, a.x, a.w + c * a.w_stride, nullptr, y + c);
  } else if (a.in <= kFetchedRow) {
    for (; c + 8 <= a.columns; c += 4) AllTiles<4, true>(a, c, y);
  }
  for (; c + 4 <= a.columns; c += 4) AllTiles<4, false>(a, c, y);
  for (; c < a.columns; ++c) AllTiles<1, false>(a, c, y);
}

// One tile of rows against columns first .. end; fetches kLines of a column's lines from `ahead` on for each column.
template <int kLines, typename Y>
void TileColumns(const Bf16DotArgs& a, int64_t t, int64_t first, int64_t end, const uint16_t* ahead, Y* y) {
  const int64_t r = FirstRowOfTile(a.rows, t), rows = FirstRowOfTile(a.rows, t + 1) - r;
  const uint16_t* x = a.x + r * Padded(a.in);
  y += r * a.y_stride;
  int64_t c = first;
  for (; c + 4 <= end; c += 4) {
    TileOf<4, kLines, _MM_HINT_T1>(rows, a, x, a.w + c * a.w_stride, ahead + (c - first) / 4 * kLines * a.in, y + c);
  }
  for (; c < end; ++c) TileOf<1, 0>(rows, a, x, a.w + c * a.w_stride, nullptr, y + c);
}

// Blocks of columns that stay in L2, and within them one tile of rows after the other, which stays in L1. The first
// tiles fetch the next block: four of them a quarter each, or two a half. Behind the last columns lie most often those
// that the thread takes next.
template <typename Y>
void DotManyRows(const Bf16DotArgs& a, Y* y) {
  const int64_t block = std::max<int64_t>(4, kBlockBytes / 2 / std::max<int64_t>(1, a.in) / 4 * 4);
  const int64_t tiles = RowTiles(a.rows);
  for (int64_t first = 0; first < a.columns; first += block) {
    const int64_t end = std::min(first + block, a.columns);
    for (int64_t t = 0; t < tiles; ++t) {
      if (tiles < 4 && t < 2) {
        TileColumns<2>(a, t, first, end, a.w + (end + t * block / 2) * a.w_stride, y);
      } else if (tiles >= 4 && t < 4) {
        TileColumns<1>(a, t, first, end, a.w + (end + t * block / 4) * a.w_stride, y);
      } else {
        TileColumns<0>(a, t, first, end, a.w, y);
      }
    }
  }
}

template <typename Y>
void DotT(const Bf16DotArgs& a, Y* y) {
  if (a.rows == 1 || a.rows * Padded(a.in) * 2 <= kFewBytes) {
    DotFewRows(a, y);
  } else {
    DotManyRows(a, y);
  }
}

}  // namespace

void DotBf16Products(const Bf16DotArgs& args, float* y) { DotT(args, y); }
void DotBf16Products(const Bf16DotArgs& args, uint16_t* y) { DotT(args, y); }

}  // namespace lorad::cpu
#pragma GCC pop_options

namespace lorad::cpu {
namespace {

std::atomic<bool> forbidden{false};

// Asked once: on a virtual machine each question leaves to the hypervisor: 14 us were measured.
bool ProcessorHas() {
  return __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
         (hwy::SupportedTargets() & HWY_AVX3) != 0;
}

}  // namespace

bool HasBf16Products() {
  static const bool processor_has = ProcessorHas();
  return processor_has && !forbidden.load(std::memory_order_relaxed);
}

void ForbidBf16Products(bool forbid) { forbidden = forbid; }

void PackBf16Tiles(const uint16_t* x, int64_t x_stride, int64_t rows, int64_t in, int64_t begin_tile, int64_t end_tile,
                   uint16_t* packed) {
  for (int64_t t = begin_tile; t < end_tile; ++t) {
    const int64_t first = FirstRowOfTile(rows, t), count = FirstRowOfTile(rows, t + 1) - first;
    uint16_t* tile = packed + first * Padded(in);
    for (int64_t r = 0; r < count; ++r) {
      const uint16_t* row = x + (first + r) * x_stride;
      uint16_t* out = tile + r * kStep;
      int64_t k = 0;
      for (; k + kStep <= in; k += kStep, out += count * kStep) std::memcpy(out, row + k, kStep * sizeof(uint16_t));
      if (k == in) continue;
      std::memcpy(out, row + k, static_cast<size_t>(in - k) * sizeof(uint16_t));
      std::fill(out + in - k, out + kStep, uint16_t{0});
    }
  }
}

}  // namespace lorad::cpu

#else

namespace lorad::cpu {

bool HasBf16Products() { return false; }
void ForbidBf16Products(bool) {}
void PackBf16Tiles(const uint16_t*, int64_t, int64_t, int64_t, int64_t, int64_t, uint16_t*) { LORAD_CHECK(false); }
void DotBf16Products(const Bf16DotArgs&, float*) { LORAD_CHECK(false); }
void DotBf16Products(const Bf16DotArgs&, uint16_t*) { LORAD_CHECK(false); }

}  // namespace lorad::cpu

#endif
