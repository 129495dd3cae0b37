#include "model/ops/cpu/bf16_quantized_panels.h"

#include "model/base/check.h"
#include "model/ops/cpu/parallel.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "model/ops/cpu/bf16_quantized_words.h"

// Behind the includes, so that nothing shared with other sources is compiled for these processors alone.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace lorad::cpu {
namespace {

constexpr int64_t kWordElements = 2;
constexpr int64_t kQuads = kGroupWords / kQuadWords;
constexpr int64_t kLineBytes = 64;
constexpr int64_t kAheadBytes = 4096;  // weights are fetched so long before they are read

__m512bh BroadcastWord(const uint16_t* word) {
  int32_t both;
  std::memcpy(&both, word, sizeof(both));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
}

// One group of R rows against C panels: totals[r][c][16] += the sums of the group with their factors.
struct GroupArgs {
  const uint16_t* x;  // the group's elements of the first row
  int64_t x_stride;
  const float* x_sum;  // of the group's elements
  int64_t x_sum_stride;
  const std::byte* words;  // of the first panel
  int64_t words_stride;    // bytes from panel to panel
  const std::byte* factors;
  int64_t factors_stride;
  float* totals;
};

template <class Words, int kWord, int R, int C>
[[gnu::always_inline]] inline void AddWord(const GroupArgs& a, const uint16_t* x, const std::byte* quad,
                                           __m512 (&acc)[R][C]) {
  __m512bh columns[C];
  for (int c = 0; c < C; ++c) columns[c] = Words::template Word<kWord>(quad + c * a.words_stride);
#pragma GCC unroll 24  // more rows than the compiler would unroll, and then the sums were in memory
  for (int r = 0; r < R; ++r) {
    const __m512bh word = BroadcastWord(x + r * a.x_stride + kWord * kWordElements);
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], columns[c], word);
  }
}

template <Quantization kQuantization>
__m512 Scales(const std::byte* factors) {
  if constexpr (kQuantization != Quantization::kInt4) return _mm512_loadu_ps(factors);
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAll16, _mm512_loadu_si512(factors), 16));
}
__m512 Zeros(const std::byte* factors) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int32_t>(0xFFFF0000u));
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(factors), upper));
}

// The sums of R rows and C panels stay in registers: at most 24.
template <class Words, int R, int C>
void Group(const GroupArgs& a) {
  constexpr Quantization kQuantization = Words::kQuantization;
  __m512 acc[R][C];
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_setzero_ps();
  const uint16_t* x = a.x;
  const std::byte* quad = a.words;
  for (int64_t q = 0; q < kQuads; ++q, x += kQuadWords * kWordElements, quad += Words::kQuadBytes) {
    for (int c = 0; c < C; ++c)
      for (int64_t line = 0; line < Words::kQuadBytes; line += kLineBytes)
        _mm_prefetch(reinterpret_cast<const char*>(quad + c * a.words_stride + kAheadBytes + line), _MM_HINT_T0);
    AddWord<Words, 0>(a, x, quad, acc);
    AddWord<Words, 1>(a, x, quad, acc);
    AddWord<Words, 2>(a, x, quad, acc);
    AddWord<Words, 3>(a, x, quad, acc);
  }
  for (int c = 0; c < C; ++c) {
    const std::byte* const factors = a.factors + c * a.factors_stride;
    const __m512 scale = Scales<kQuantization>(factors), zero = Zeros(factors);
#pragma GCC unroll 24
    for (int r = 0; r < R; ++r) {
      float* const total = a.totals + (r * C + c) * kPanelColumns;
      __m512 sum = _mm512_fmadd_ps(acc[r][c], scale, _mm512_load_ps(total));
      if constexpr (kQuantization == Quantization::kInt4) {
        sum = _mm512_fmadd_ps(_mm512_set1_ps(a.x_sum[r * a.x_sum_stride]), zero, sum);
      }
      _mm512_store_ps(total, sum);
    }
  }
}

template <class Words, int C, int... R>
void RunGroup(int64_t rows, const GroupArgs& a, std::integer_sequence<int, R...>) {
  static constexpr void (*kGroups[])(const GroupArgs&) = {&Group<Words, R + 1, C>...};
  kGroups[rows - 1](a);
}

// As many panels go with some rows as leave enough sums to hide the instruction's latency.
constexpr int kMostSums = 24;
constexpr int RowsOf(int panels) { return kMostSums / panels; }
int PanelsTogether(int64_t rows) { return rows <= RowsOf(4) ? 4 : rows <= RowsOf(2) ? 2 : 1; }

template <class Words>
void GroupOf(int64_t rows, int panels, const GroupArgs& a) {
  switch (panels) {
    case 4:
      return RunGroup<Words, 4>(rows, a, std::make_integer_sequence<int, RowsOf(4)>());
    case 2:
      return RunGroup<Words, 2>(rows, a, std::make_integer_sequence<int, RowsOf(2)>());
    default:
      return RunGroup<Words, 1>(rows, a, std::make_integer_sequence<int, RowsOf(1)>());
  }
}

void PutColumns(__m512 sums, __mmask16 columns, uint16_t* y) {
  _mm256_mask_storeu_epi16(y, columns, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sums)));
}
__mmask16 FirstColumns(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

// The words of some panels as bf16, kExpandedBytes a group.
constexpr int64_t kExpandedBytes = kGroupWords * kLineBytes;
template <class Words>
const std::byte* Expand(const std::byte* panel, int64_t panels, int64_t in) {
  const int64_t groups = QuantizedGroups(in), panel_bytes = QuantizedPanelBytes(Words::kQuantization, in);
  auto* const expanded = reinterpret_cast<std::byte*>(
      ThreadScratch(Scratch::kWeights, panels * groups * kExpandedBytes / static_cast<int64_t>(sizeof(float))));
  std::byte* to = expanded;
  for (int64_t i = 0; i < panels * groups; ++i) {
    const std::byte* quad =
        panel + i / groups * panel_bytes + i % groups * BlockBytes(Words::kQuantization) + kFactorBytes;
    for (int64_t q = 0; q < kQuads; ++q, quad += Words::kQuadBytes, to += kQuadWords * kLineBytes) {
      const auto put = [&](int64_t word, __m512bh v) {
        _mm512_store_si512(to + word * kLineBytes, reinterpret_cast<__m512i>(v));
      };
      put(0, Words::template Word<0>(quad));
      put(1, Words::template Word<1>(quad));
      put(2, Words::template Word<2>(quad));
      put(3, Words::template Word<3>(quad));
    }
  }
  return expanded;
}

// y [rows, columns] of some packed rows, 24 sums at most. The words become bf16 where they are multiplied.
template <class Words>
void FewRows(const QuantizedDotArgs& a, const float* x, int64_t rows, const std::byte* panel, int panels,
             int64_t columns, uint16_t* y) {
  alignas(64) float totals[kMostSums * kPanelColumns];
  std::fill_n(totals, rows * panels * kPanelColumns, 0.0f);
  const int64_t row_floats = QuantizedRowFloats(a.in), panel_stride = QuantizedPanelBytes(Words::kQuantization, a.in);
  GroupArgs group = {.x = reinterpret_cast<const uint16_t*>(x),
                     .x_stride = row_floats * 2,  // a float's place holds two
                     .x_sum = x + QuantizedRowElements(a.in),
                     .x_sum_stride = row_floats,
                     .words = panel + kFactorBytes,
                     .words_stride = panel_stride,
                     .factors = panel,
                     .factors_stride = panel_stride,
                     .totals = totals};
  for (int64_t g = 0; g < QuantizedGroups(a.in); ++g) {
    GroupOf<Words>(rows, panels, group);
    group.x += kQuantizedGroup;
    ++group.x_sum;
    group.words += BlockBytes(Words::kQuantization);
    group.factors += FactorStride(Words::kQuantization);
  }
  const __mmask16 last = FirstColumns(columns - (panels - 1) * kPanelColumns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int c = 0; c < panels; ++c) {
      const __m512 sum = _mm512_load_ps(totals + (r * panels + c) * kPanelColumns);
      PutColumns(sum, c + 1 < panels ? kAll16 : last, y + r * a.y_stride + c * kPanelColumns);
    }
  }
}

// R rows against C panels whose words were expanded. The sums of a group and their totals stay in registers, 12 each:
// kept in memory, 24 totals a group took a tenth of the time.
constexpr int kMostTotals = 12;
template <Quantization kQuantization, int R, int C>
void ExpandedTile(const QuantizedDotArgs& a, const float* x, const std::byte* factors, const std::byte* expanded,
                  __mmask16 last, uint16_t* y) {
  const int64_t row_floats = QuantizedRowFloats(a.in), groups = QuantizedGroups(a.in);
  const auto* elements = reinterpret_cast<const uint16_t*>(x);
  const float* const x_sums = x + QuantizedRowElements(a.in);
  __m512 totals[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) totals[r][c] = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; ++g, factors += FactorStride(kQuantization)) {
    __m512 acc[R][C];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) acc[r][c] = _mm512_setzero_ps();
    for (int64_t w = 0; w < kGroupWords; ++w, elements += kWordElements, expanded += kLineBytes) {
      __m512bh columns[C];
      for (int c = 0; c < C; ++c) {
        columns[c] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(expanded + c * groups * kExpandedBytes));
      }
      for (int r = 0; r < R; ++r) {
        const __m512bh word = BroadcastWord(elements + r * row_floats * 2);
        for (int c = 0; c < C; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], columns[c], word);
      }
    }
    for (int c = 0; c < C; ++c) {
      const std::byte* const of_panel = factors + c * QuantizedPanelBytes(kQuantization, a.in);
      const __m512 scale = Scales<kQuantization>(of_panel), zero = Zeros(of_panel);
      for (int r = 0; r < R; ++r) {
        totals[r][c] = _mm512_fmadd_ps(acc[r][c], scale, totals[r][c]);
        if constexpr (kQuantization == Quantization::kInt4) {
          totals[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(x_sums[r * row_floats + g]), zero, totals[r][c]);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c)
      PutColumns(totals[r][c], c + 1 < C ? kAll16 : last, y + r * a.y_stride + c * kPanelColumns);
}

// All rows against C panels, which are expanded once.
template <class Words, int C, int... R>
void ManyRows(const QuantizedDotArgs& a, const std::byte* panel, int64_t columns, uint16_t* y,
              std::integer_sequence<int, R...>) {
  using TileFn =
      void (*)(const QuantizedDotArgs&, const float*, const std::byte*, const std::byte*, __mmask16, uint16_t*);
  static constexpr TileFn kTiles[] = {&ExpandedTile<Words::kQuantization, R + 1, C>...};
  constexpr int64_t kRows = sizeof...(R);
  const std::byte* const expanded = Expand<Words>(panel, C, a.in);
  const __mmask16 last = FirstColumns(columns - (C - 1) * kPanelColumns);
  const int64_t tiles = (a.rows + kRows - 1) / kRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t r = a.rows * t / tiles, rows = a.rows * (t + 1) / tiles - r;
    kTiles[rows - 1](a, a.x + r * QuantizedRowFloats(a.in), panel, expanded, last, y + r * a.y_stride);
  }
}

constexpr int64_t kRowsExpanded = 33;  // expanding a word pays for so many rows

template <class Words>
void DotT(const QuantizedDotArgs& a, uint16_t* y) {
  const int64_t tiles = (a.rows + RowsOf(1) - 1) / RowsOf(1);
  const bool many = a.rows >= kRowsExpanded;
  for (int64_t c = 0; c < a.columns;) {
    int panels = many ? 2 : PanelsTogether(a.rows);
    while ((panels - 1) * kPanelColumns >= a.columns - c) panels /= 2;
    const int64_t columns = std::min(a.columns - c, panels * kPanelColumns);
    const std::byte* const panel = a.panels + c / kPanelColumns * QuantizedPanelBytes(Words::kQuantization, a.in);
    if (many && panels == 2) {
      ManyRows<Words, 2>(a, panel, columns, y + c, std::make_integer_sequence<int, kMostTotals / 2>());
    } else if (many) {
      ManyRows<Words, 1>(a, panel, columns, y + c, std::make_integer_sequence<int, kMostTotals>());
    } else {
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t r = a.rows * t / tiles, rows = a.rows * (t + 1) / tiles - r;
        FewRows<Words>(a, a.x + r * QuantizedRowFloats(a.in), rows, panel, panels, columns, y + r * a.y_stride + c);
      }
    }
    c += columns;
  }
}

}  // namespace

void QuantizedDotBf16Products(const QuantizedDotArgs& args, uint16_t* y) {
  if (args.quantization == Quantization::kInt8) return DotT<Int8Words>(args, y);
  if (args.quantization == Quantization::kFp8) return DotT<Fp8Words>(args, y);
  DotT<Int4Words>(args, y);
}

}  // namespace lorad::cpu
#pragma GCC pop_options

#else

namespace lorad::cpu {

void QuantizedDotBf16Products(const QuantizedDotArgs&, uint16_t*) { LORAD_CHECK(false); }

}  // namespace lorad::cpu

#endif
