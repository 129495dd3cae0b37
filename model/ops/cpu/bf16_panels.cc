#include "model/ops/cpu/bf16_panels.h"

#include "model/base/check.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <utility>

// Behind the includes, so that nothing shared with other sources is compiled for these processors alone.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace lorad::cpu {
namespace {

constexpr int64_t kWord = 2;                           // elements
constexpr int64_t kPanelWord = kPanelColumns * kWord;  // elements: a word of all columns, one vector
constexpr int64_t kAhead = 64 * kPanelWord;            // elements: weights are fetched 4 KiB before they are read

__m512bh Load(const uint16_t* words) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(words)); }
__m512bh Broadcast(const uint16_t* word) {
  int32_t both;
  std::memcpy(&both, word, sizeof(both));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
}

void Put(__m512 sums, __mmask16 columns, uint16_t* y) {
  _mm256_mask_storeu_epi16(y, columns, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sums)));
}
void Put(__m512 sums, __mmask16 columns, float* y) {
  _mm512_mask_storeu_ps(y, columns, _mm512_add_ps(_mm512_maskz_loadu_ps(columns, y), sums));
}

// `rows` packed rows from x on against C panels from `panels` on; the last has `columns` (kPanelColumns or fewer).
template <typename Y>
struct TileArgs {
  const uint16_t* x;
  int64_t x_stride;
  const uint16_t* panels;
  int64_t words;
  int64_t columns;
  int64_t y_stride;
  Y* y;
};

// The sums of R rows and C panels stay in registers: at most 24.
template <int R, int C, typename Y>
void Tile(const TileArgs<Y>& a) {
  __m512 acc[R][C];
#pragma GCC unroll 24  // more rows than the compiler would unroll, and then the sums were in memory
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_setzero_ps();
  const uint16_t* x = a.x;
  const uint16_t* panel = a.panels;
  const int64_t panel_stride = a.words * kPanelWord;
  for (int64_t w = 0; w < a.words; ++w, x += kWord, panel += kPanelWord) {
    __m512bh columns[C];
    for (int c = 0; c < C; ++c) {
      columns[c] = Load(panel + c * panel_stride);
      _mm_prefetch(panel + c * panel_stride + kAhead, _MM_HINT_T0);
    }
#pragma GCC unroll 24
    for (int r = 0; r < R; ++r) {
      const __m512bh word = Broadcast(x + r * a.x_stride);
      for (int c = 0; c < C; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], columns[c], word);
    }
  }
  const __mmask16 last = static_cast<__mmask16>((1u << a.columns) - 1);
#pragma GCC unroll 24
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < C; ++c) {
      Put(acc[r][c], c + 1 < C ? __mmask16{0xFFFF} : last, a.y + r * a.y_stride + c * kPanelColumns);
    }
  }
}

template <int C, typename Y, int... R>
void RunTile(int64_t rows, const TileArgs<Y>& a, std::integer_sequence<int, R...>) {
  static constexpr void (*kTiles[])(const TileArgs<Y>&) = {&Tile<R + 1, C, Y>...};
  kTiles[rows - 1](a);
}

// Rows are cut into tiles; as many panels go with a tile as leave enough sums to hide the instruction's latency.
constexpr int kRowsOfOnePanel = 24, kRowsOfTwo = 12, kRowsOfFour = 6;

int PanelsTogether(int64_t rows) {
  return rows <= kRowsOfFour ? 4 : rows <= kRowsOfTwo || rows > kRowsOfOnePanel ? 2 : 1;
}

template <typename Y>
void TileOf(int64_t rows, int panels, const TileArgs<Y>& a) {
  switch (panels) {
    case 4:
      return RunTile<4>(rows, a, std::make_integer_sequence<int, kRowsOfFour>());
    case 2:
      return RunTile<2>(rows, a, std::make_integer_sequence<int, kRowsOfTwo>());
    default:
      return RunTile<1>(rows, a, std::make_integer_sequence<int, kRowsOfOnePanel>());
  }
}

// Q queries, each with a sum of the even words and one of the odd ones: an addition need not wait for the one before.
template <int Q>
[[gnu::always_inline]] inline void ScoreQueries(const Bf16ScoreArgs& a, const uint16_t* q, float* scores) {
  __m512 even[Q], odd[Q];
  for (int i = 0; i < Q; ++i) even[i] = odd[i] = _mm512_setzero_ps();
  const int64_t q_stride = a.words * kWord;
  int64_t w = 0;
  for (; w + 2 <= a.words; w += 2) {
    const __m512bh key0 = Load(a.keys + w * kPanelWord), key1 = Load(a.keys + (w + 1) * kPanelWord);
    for (int i = 0; i < Q; ++i) {
      even[i] = _mm512_dpbf16_ps(even[i], key0, Broadcast(q + i * q_stride + w * kWord));
      odd[i] = _mm512_dpbf16_ps(odd[i], key1, Broadcast(q + i * q_stride + (w + 1) * kWord));
    }
  }
  if (w < a.words) {
    const __m512bh key = Load(a.keys + w * kPanelWord);
    for (int i = 0; i < Q; ++i) even[i] = _mm512_dpbf16_ps(even[i], key, Broadcast(q + i * q_stride + w * kWord));
  }
  for (int i = 0; i < Q; ++i) _mm512_storeu_ps(scores + i * a.score_stride, _mm512_add_ps(even[i], odd[i]));
}

template <typename Y>
void PanelDotT(const PanelDotArgs& a, Y* y) {
  const int64_t words = PanelWords(a.in), x_stride = PanelRowFloats(a.in) * kWord;
  const int64_t tiles = a.rows <= kRowsOfOnePanel ? 1 : (a.rows + kRowsOfTwo - 1) / kRowsOfTwo;
  for (int64_t c = 0; c < a.columns;) {
    int together = PanelsTogether(a.rows);
    while ((together - 1) * kPanelColumns >= a.columns - c) together /= 2;
    const int64_t columns = std::min(a.columns - c, together * kPanelColumns);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t r = a.rows * t / tiles, rows = a.rows * (t + 1) / tiles - r;
      TileOf(rows, together,
             TileArgs<Y>{.x = reinterpret_cast<const uint16_t*>(a.x) + r * x_stride,
                         .x_stride = x_stride,
                         .panels = a.panels + c * words * kWord,
                         .words = words,
                         .columns = columns - (together - 1) * kPanelColumns,
                         .y_stride = a.y_stride,
                         .y = y + r * a.y_stride + c});
    }
    c += columns;
  }
}

}  // namespace

void PanelDotBf16Products(const PanelDotArgs& args, uint16_t* y) { PanelDotT(args, y); }
void AddPanelDotBf16Products(const PanelDotArgs& args, float* y) { PanelDotT(args, y); }

void ScoreBf16Products(const Bf16ScoreArgs& a, float* scores) {
  const int64_t q_stride = a.words * kWord;
  int64_t i = 0;
  for (; i + 6 <= a.queries; i += 6) ScoreQueries<6>(a, a.q + i * q_stride, scores + i * a.score_stride);
  for (; i + 3 <= a.queries; i += 3) ScoreQueries<3>(a, a.q + i * q_stride, scores + i * a.score_stride);
  for (; i < a.queries; ++i) ScoreQueries<1>(a, a.q + i * q_stride, scores + i * a.score_stride);
}

}  // namespace lorad::cpu
#pragma GCC pop_options

#else

namespace lorad::cpu {

void PanelDotBf16Products(const PanelDotArgs&, uint16_t*) { LORAD_CHECK(false); }
void AddPanelDotBf16Products(const PanelDotArgs&, float*) { LORAD_CHECK(false); }
void ScoreBf16Products(const Bf16ScoreArgs&, float*) { LORAD_CHECK(false); }

}  // namespace lorad::cpu

#endif
