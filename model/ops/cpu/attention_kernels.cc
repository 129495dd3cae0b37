#include "model/ops/cpu/attention_kernels.h"

#include <algorithm>
#include <limits>

#include "model/kv/kv_layout.h"
#include "model/ops/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/ops/cpu/attention_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/cache_control.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "model/ops/cpu/dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kTokens = kKvBlockTokens;
inline constexpr int64_t kFewQueries = 8;  // read bf16 keys and values in three passes at most
static_assert(kTokens % 8 == 0 && kTokens % kLanes == 0);

// Which tokens of the block a query may see: [begin, end).
struct Visible {
  int64_t begin;
  int64_t end;
};
HWY_INLINE Visible VisibleOf(const AttendArgs& a, int64_t row, int64_t block) {
  const int64_t position = a.first_position + row, base = block * kTokens;
  const int64_t oldest = a.window > 0 ? position - a.window + 1 : 0;
  return {std::clamp<int64_t>(oldest - base, 0, kTokens), std::clamp<int64_t>(position + 1 - base, 0, kTokens)};
}

// scores[q, t] for all tokens of the block.
template <typename K>
HWY_INLINE void ScoreBlock(const float* q, int64_t queries, int64_t width, const K* keys, float* scores) {
  int64_t i = 0;
  for (; queries - i >= 3 && queries - i != 4; i += 3) {
    for (int64_t t = 0; t < kTokens; t += 4) {
      float sums[3][4];
      Tile<4, 3>(q + i * width, width, keys + t * width, width, width, sums);
      for (int r = 0; r < 3; ++r) std::copy(sums[r], sums[r] + 4, scores + (i + r) * kTokens + t);
    }
  }
  for (; queries - i >= 2; i += 2) {
    for (int64_t t = 0; t < kTokens; t += 4) {
      float sums[2][4];
      Tile<4, 2>(q + i * width, width, keys + t * width, width, width, sums);
      for (int r = 0; r < 2; ++r) std::copy(sums[r], sums[r] + 4, scores + (i + r) * kTokens + t);
    }
  }
  if (i < queries) {
    for (int64_t t = 0; t < kTokens; t += 8) {
      float sums[1][8];
      Tile<8, 1>(q + i * width, width, keys + t * width, width, width, sums);
      std::copy(sums[0], sums[0] + 8, scores + i * kTokens + t);
    }
  }
}

// hn::Tanh is for finite arguments; from 10 on the result is 1 in f32. NaN passes.
HWY_INLINE VF TanhOf(VF v) {
  const DF d;
  const VF limit = hn::Set(d, 10.0f);
  const VF tanh = hn::Tanh(d, hn::Min(hn::Max(v, hn::Neg(limit)), limit));
  return hn::IfThenElse(hn::IsNaN(v), v, tanh);
}

// scores = softcap * tanh(scale * scores / softcap).
HWY_INLINE void CapScores(float* scores, int64_t n, float scale, float softcap) {
  const DF d;
  const VF in = hn::Set(d, scale / softcap), out = hn::Set(d, softcap);
  for (int64_t i = 0; i < n; i += kLanes) {
    hn::StoreU(hn::Mul(out, TanhOf(hn::Mul(hn::LoadU(d, scores + i), in))), d, scores + i);
  }
}

// Turns the visible scores of one query into weights relative to the new maximum, zero elsewhere; returns the factor
// for what was summed before. A NaN stays one.
HWY_INLINE float Weigh(float* scores, Visible visible, float scale, float& max, float& sum) {
  const DF d;
  const VF lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  const VF begin = hn::Set(d, static_cast<float>(visible.begin)), end = hn::Set(d, static_cast<float>(visible.end));
  VF s[kTokens / kLanes];
  VF best = hn::Set(d, max);
  for (int64_t i = 0; i < kTokens / kLanes; ++i) {
    const VF token = hn::Iota(d, static_cast<float>(i * kLanes));
    const auto seen = hn::And(hn::Ge(token, begin), hn::Lt(token, end));
    s[i] = hn::IfThenElse(seen, hn::Mul(hn::LoadU(d, scores + i * kLanes), hn::Set(d, scale)), lowest);
    best = hn::Max(best, s[i]);
  }
  const float new_max = hn::GetLane(hn::MaxOfLanes(d, best));
  VF total = hn::Zero(d);
  for (int64_t i = 0; i < kTokens / kLanes; ++i) {
    const VF below = hn::Sub(s[i], hn::Set(d, new_max));
    const VF weight = hn::IfThenElse(hn::IsNaN(below), below, hn::Exp(d, below));
    hn::StoreU(weight, d, scores + i * kLanes);
    total = hn::Add(total, weight);
  }
  const float factor = hn::GetLane(hn::Exp(d, hn::Set(d, max - new_max)));
  sum = sum * factor + SumLanes(total);
  max = new_max;
  return factor;
}

// acc[q] = acc[q] * factor[q] + sum over tokens [begin, end) of weight[q, t] * values[t], t ascending; P pairs of
// vectors.
template <int Q, int P, typename V>
HWY_INLINE void Accumulate(const float* weights, const float* factors, const V* values, int64_t width, Visible tokens,
                           float* acc) {
  const DF d;
  VF sums[Q][2 * P];
  for (int i = 0; i < Q; ++i) {
    const VF factor = hn::Set(d, factors[i]);
    for (int v = 0; v < 2 * P; ++v) sums[i][v] = hn::Mul(hn::LoadU(d, acc + i * width + v * kLanes), factor);
  }
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    VF w[Q];
    for (int i = 0; i < Q; ++i) w[i] = hn::Set(d, weights[i * kTokens + t]);
    for (int p = 0; p < P; ++p) {
      VF v0, v1;
      Load2(values + t * width + p * kPair, v0, v1);
      for (int i = 0; i < Q; ++i) {
        sums[i][2 * p] = hn::MulAdd(w[i], v0, sums[i][2 * p]);
        sums[i][2 * p + 1] = hn::MulAdd(w[i], v1, sums[i][2 * p + 1]);
      }
    }
  }
  for (int i = 0; i < Q; ++i)
    for (int v = 0; v < 2 * P; ++v) hn::StoreU(sums[i][v], d, acc + i * width + v * kLanes);
}
template <int Q, typename V>
HWY_INLINE void AccumulateWidth(const float* weights, const float* factors, const V* values, int64_t width,
                                Visible tokens, float* acc) {
  constexpr int kPairs = Q == 1 ? 4 : 2;
  int64_t c = 0;
  for (; c + kPairs * kPair <= width; c += kPairs * kPair) {
    Accumulate<Q, kPairs>(weights, factors, values + c, width, tokens, acc + c);
  }
  for (; c < width; c += kPair) Accumulate<Q, 1>(weights, factors, values + c, width, tokens, acc + c);
}

// A head's keys or values of one block lie apart from the next one's: the processor would fetch them late.
HWY_INLINE void FetchAhead(const std::byte* data, int64_t bytes) {
  constexpr int64_t kLineBytes = 64;
  for (int64_t i = 0; i < bytes; i += kLineBytes) hwy::Prefetch(data + i);
}

// The running softmax of all queries of a task, each with its own sums.
struct Softmax {
  float* acc;      // [queries, width]
  float* scores;   // [queries, kTokens]
  float* max;      // [queries]
  float* sum;      // [queries]
  float* factors;  // [queries]
};

// One block of keys and values, as they lie (bf16) or packed (f32).
template <typename V>
HWY_INLINE void AttendBlock(const AttendArgs& a, int64_t block, const float* q, int64_t queries, int64_t width,
                            const V* keys, const V* values, const Softmax& s) {
  const float scale = a.softcap > 0 ? 1.0f : a.scale;  // capped scores have been scaled
  ScoreBlock(q, queries, width, keys, s.scores);
  if (a.softcap > 0) CapScores(s.scores, queries * kTokens, a.scale, a.softcap);
  const Visible first = VisibleOf(a, 0, block);
  bool all_alike = true;
  for (int64_t i = 0; i < queries; ++i) {
    const Visible visible = VisibleOf(a, i / a.group, block);
    all_alike = all_alike && visible.begin == first.begin && visible.end == first.end;
    if (visible.begin >= visible.end) continue;
    s.factors[i] = Weigh(s.scores + i * kTokens, visible, scale, s.max[i], s.sum[i]);
  }
  int64_t i = 0;
  if (all_alike && first.begin < first.end) {
    for (; queries - i >= 3 && queries - i != 4; i += 3) {
      AccumulateWidth<3>(s.scores + i * kTokens, s.factors + i, values, width, first, s.acc + i * width);
    }
    for (; queries - i >= 2; i += 2) {
      AccumulateWidth<2>(s.scores + i * kTokens, s.factors + i, values, width, first, s.acc + i * width);
    }
  }
  for (; i < queries; ++i) {
    const Visible visible = VisibleOf(a, i / a.group, block);
    if (visible.begin >= visible.end) continue;
    AccumulateWidth<1>(s.scores + i * kTokens, s.factors + i, values, width, visible, s.acc + i * width);
  }
}

template <typename T>
void AttendT(const AttendArgs& a, const T* q, T* y) {
  const int64_t queries = a.rows * a.group;
  const int64_t width = (a.head_dim + kPair - 1) / kPair * kPair;
  float* packed_q = ThreadScratch(Scratch::kRows, queries * (2 * width + kTokens + 3));
  Softmax softmax;
  softmax.acc = packed_q + queries * width;
  softmax.scores = softmax.acc + queries * width;
  softmax.max = softmax.scores + queries * kTokens;
  softmax.sum = softmax.max + queries;
  softmax.factors = softmax.sum + queries;
  float* packed_keys = ThreadScratch(Scratch::kWeights, 2 * kTokens * width);
  float* packed_values = packed_keys + kTokens * width;
  for (int64_t r = 0; r < a.rows; ++r) {
    PackRowsT(q + r * a.q_stride, a.head_dim, a.group, a.head_dim, width, packed_q + r * a.group * width, width);
  }
  std::fill(softmax.acc, softmax.acc + queries * width, 0.0f);
  std::fill(softmax.max, softmax.max + queries, -std::numeric_limits<float>::infinity());
  std::fill(softmax.sum, softmax.sum + queries, 0.0f);

  // Packing widens bf16 once for all queries; a few read it as it lies. Both sum in the same order.
  const bool as_it_lies = width == a.head_dim && (sizeof(T) == sizeof(float) || queries <= kFewQueries);
  const int64_t oldest = a.window > 0 ? std::max<int64_t>(0, a.first_position - a.window + 1) : 0;
  const int64_t last = a.first_position + a.rows - 1;
  const int64_t head_bytes = kTokens * a.head_dim * static_cast<int64_t>(sizeof(T));
  for (int64_t b = oldest / kTokens; b <= last / kTokens; ++b) {
    const std::byte* block = a.arena + a.blocks[b] * a.page_bytes;
    const T* keys = reinterpret_cast<const T*>(block + a.k_offset_bytes);
    const T* values = reinterpret_cast<const T*>(block + a.v_offset_bytes);
    if ((b + 1) * kTokens <= last) {
      const std::byte* next = a.arena + a.blocks[b + 1] * a.page_bytes;
      FetchAhead(next + a.k_offset_bytes, head_bytes);
      FetchAhead(next + a.v_offset_bytes, head_bytes);
    }
    if (as_it_lies) {
      AttendBlock(a, b, packed_q, queries, width, keys, values, softmax);
    } else {
      const int64_t written = std::min(kTokens, last + 1 - b * kTokens);  // what lies behind is of nobody
      PackRowsT(keys, a.head_dim, kTokens, a.head_dim, width, packed_keys, width);
      PackRowsT(values, a.head_dim, written, a.head_dim, width, packed_values, width);
      AttendBlock(a, b, packed_q, queries, width, packed_keys, packed_values, softmax);
    }
  }

  const DF d;
  for (int64_t i = 0; i < queries; ++i) {
    const VF inverse = hn::Set(d, 1.0f / softmax.sum[i]);
    T* out = y + i / a.group * a.y_stride + i % a.group * a.head_dim;
    for (int64_t c = 0; c < a.head_dim; c += kPair) {
      const VF lower = hn::Mul(hn::LoadU(d, softmax.acc + i * width + c), inverse);
      const VF upper = hn::Mul(hn::LoadU(d, softmax.acc + i * width + c + kLanes), inverse);
      if (c + kPair <= a.head_dim) {
        Store2(lower, upper, out + c);
      } else {
        Store2Tail(lower, upper, out + c, a.head_dim - c);
      }
    }
  }
}

void AttendF32(const AttendArgs& a, const float* q, float* y) { AttendT(a, q, y); }
void AttendBf16(const AttendArgs& a, const uint16_t* q, uint16_t* y) { AttendT(a, q, y); }

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lorad::cpu {

HWY_EXPORT(AttendF32);
HWY_EXPORT(AttendBf16);

void Attend(const AttendArgs& args, const float* q, float* y) { HWY_DYNAMIC_DISPATCH(AttendF32)(args, q, y); }
void Attend(const AttendArgs& args, const uint16_t* q, uint16_t* y) { HWY_DYNAMIC_DISPATCH(AttendBf16)(args, q, y); }

}  // namespace lorad::cpu
#endif  // HWY_ONCE
