#include "model/ops/cpu/attention_kernels.h"

#include <algorithm>
#include <limits>

#include "model/kv/kv_layout.h"
#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu/bf16_panels.h"
#include "model/ops/cpu/bf16_products.h"
#include "model/ops/cpu/key_panels.h"
#include "model/ops/cpu/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/ops/cpu/attention_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "hwy/cache_control.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"
#include "model/ops/cpu/dot-inl.h"
#include "model/ops/cpu/panel-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kTokens = kKvBlockTokens;
inline constexpr int64_t kChunkBlocks = 8;  // weighed at once
inline constexpr int64_t kChunkTokens = kChunkBlocks * kTokens;
static_assert(kTokens == kPanelLanes);

// Tokens of a chunk: [begin, end).
struct Tokens {
  int64_t begin;
  int64_t end;
};
// Those that a row may see.
HWY_INLINE Tokens VisibleTo(const AttendArgs& a, int64_t row, int64_t chunk) {
  const int64_t position = a.first_position + row, base = chunk * kChunkTokens;
  const int64_t oldest = a.window > 0 ? position - a.window + 1 : 0;
  return {std::clamp<int64_t>(oldest - base, 0, kChunkTokens),
          std::clamp<int64_t>(position + 1 - base, 0, kChunkTokens)};
}

// scores[i, t] of Q queries for the tokens of one block, whose keys are a panel.
template <int Q, typename K>
HWY_INLINE void ScoreQueries(const float* q, int64_t q_stride, const K* keys, int64_t words, float* scores) {
  VF acc[Q][kPanelVectors];
  PanelSums<Q>(q, q_stride, keys, words, acc);
  for (int i = 0; i < Q; ++i)
    for (int v = 0; v < kPanelVectors; ++v) hn::StoreU(acc[i][v], DF(), scores + i * kChunkTokens + v * kLanes);
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

// Turns the visible ones of a query's scores into weights relative to the new maximum, zero elsewhere in `scored`,
// which is whole blocks; returns the factor for what was summed before. A NaN stays one.
HWY_INLINE float Weigh(float* scores, Tokens scored, Tokens visible, float scale, float& max, float& sum) {
  const DF d;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  const VF lowest = hn::Set(d, kLowest);
  const VF begin = hn::Set(d, static_cast<float>(visible.begin)), end = hn::Set(d, static_cast<float>(visible.end));
  VF best = hn::Set(d, max);
  for (int64_t t = scored.begin; t < scored.end; t += kLanes) {
    const VF token = hn::Iota(d, static_cast<float>(t));
    const auto seen = hn::And(hn::Ge(token, begin), hn::Lt(token, end));
    const VF score = hn::IfThenElse(seen, hn::Mul(hn::LoadU(d, scores + t), hn::Set(d, scale)), lowest);
    hn::StoreU(score, d, scores + t);
    best = hn::Max(best, score);
  }
  const float new_max = hn::GetLane(hn::MaxOfLanes(d, best));
  VF total = hn::Zero(d);
  for (int64_t t = scored.begin; t < scored.end; t += kLanes) {
    const VF below = hn::Sub(hn::LoadU(d, scores + t), hn::Set(d, new_max));
    const VF weight = hn::IfThenElse(hn::IsNaN(below), below, hn::Exp(d, below));
    hn::StoreU(weight, d, scores + t);
    total = hn::Add(total, weight);
  }
  float factor = 1.0f;
  if (max == kLowest) {
    factor = 0.0f;  // the first: nothing was summed
  } else if (max != new_max) {
    factor = hn::GetLane(hn::Exp(d, hn::Set(d, max - new_max)));
  }
  sum = sum * factor + SumLanes(total);
  max = new_max;
  return factor;
}

// A head's keys or values of one block lie apart from the next one's: the processor would fetch them late.
HWY_INLINE void FetchAhead(const std::byte* data, int64_t bytes) {
  constexpr int64_t kLineBytes = 64;
  for (int64_t i = 0; i < bytes; i += kLineBytes) hwy::Prefetch(data + i);
}

// The values of a chunk: those of token t lie at of_block[t / 16] + t % 16 * stride.
template <typename V>
struct ChunkValues {
  const V* of_block[kChunkBlocks];
  int64_t stride;
};

// acc[i] = acc[i] * factors[i] + sum over `tokens` of weights[i, t] * values[t], t ascending; P pairs of vectors of Q
// queries.
template <int Q, int P, typename V>
HWY_INLINE void Accumulate(const float* weights, const float* factors, const ChunkValues<V>& values, int64_t column,
                           Tokens tokens, float* acc, int64_t acc_stride) {
  const DF d;
  VF sums[Q][2 * P];
  for (int i = 0; i < Q; ++i) {
    const VF factor = hn::Set(d, factors[i]);
    for (int v = 0; v < 2 * P; ++v) sums[i][v] = hn::Mul(hn::LoadU(d, acc + i * acc_stride + v * kLanes), factor);
  }
  for (int64_t t = tokens.begin; t < tokens.end;) {
    const int64_t end = std::min(tokens.end, (t / kTokens + 1) * kTokens);
    const V* value = values.of_block[t / kTokens] + t % kTokens * values.stride + column;
    for (; t < end; ++t, value += values.stride) {
      VF w[Q];
      for (int i = 0; i < Q; ++i) w[i] = hn::Set(d, weights[i * kChunkTokens + t]);
      for (int p = 0; p < P; ++p) {
        VF v0, v1;
        Load2(value + p * kPair, v0, v1);
        for (int i = 0; i < Q; ++i) {
          sums[i][2 * p] = hn::MulAdd(w[i], v0, sums[i][2 * p]);
          sums[i][2 * p + 1] = hn::MulAdd(w[i], v1, sums[i][2 * p + 1]);
        }
      }
    }
  }
  for (int i = 0; i < Q; ++i)
    for (int v = 0; v < 2 * P; ++v) hn::StoreU(sums[i][v], d, acc + i * acc_stride + v * kLanes);
}
template <int Q, typename V>
HWY_INLINE void AccumulateWidth(const float* weights, const float* factors, const ChunkValues<V>& values, int64_t width,
                                Tokens tokens, float* acc) {
  constexpr int kPairs = Q == 1 ? 4 : 2;
  int64_t c = 0;
  for (; c + kPairs * kPair <= width; c += kPairs * kPair) {
    Accumulate<Q, kPairs>(weights, factors, values, c, tokens, acc + c, width);
  }
  for (; c < width; c += kPair) Accumulate<Q, 1>(weights, factors, values, c, tokens, acc + c, width);
}

// The rows' attention for one KV head after the other.
template <typename T>
class Attention final {
 public:
  Attention(const AttendArgs& args, const T* q, T* y)
      : a_(args),
        q_(q),
        y_(y),
        queries_(args.rows * args.group),
        words_((args.head_dim * static_cast<int64_t>(sizeof(T)) + kKeyWordBytes - 1) / kKeyWordBytes),
        q_width_(words_ * kKeyWordBytes / static_cast<int64_t>(sizeof(T))),
        width_((args.head_dim + kPair - 1) / kPair * kPair),
        products_(sizeof(T) == sizeof(uint16_t) && HasBf16Products()),
        first_block_(args.window > 0 ? std::max<int64_t>(0, args.first_position - args.window + 1) / kTokens : 0),
        last_block_((args.first_position + args.rows - 1) / kTokens) {
    own_q_ = ThreadScratch(Scratch::kRows, queries_ * (q_width_ + width_ + kChunkTokens + 3));
    acc_ = own_q_ + queries_ * q_width_;
    scores_ = acc_ + queries_ * width_;
    max_ = scores_ + queries_ * kChunkTokens;
    sum_ = max_ + queries_;
    factors_ = sum_ + queries_;
    if (width_ != args.head_dim) packed_values_ = ThreadScratch(Scratch::kWeights, kChunkTokens * width_);
  }

  void Run() {
    for (int64_t head = 0; head < a_.kv_heads; ++head) {
      TakeQueries(head);
      std::fill(acc_, acc_ + queries_ * width_, 0.0f);
      std::fill(max_, max_ + queries_, -std::numeric_limits<float>::infinity());
      std::fill(sum_, sum_ + queries_, 0.0f);
      for (int64_t chunk = FirstChunk(); chunk <= LastChunk(); ++chunk) {
        Score(head, chunk);
        Weigh(chunk);
        Sum(head, chunk);
      }
      PutResults(head);
    }
  }

 private:
  int64_t FirstChunk() const { return first_block_ / kChunkBlocks; }
  int64_t LastChunk() const { return last_block_ / kChunkBlocks; }
  // Of the chunk's tokens, those of blocks that some row sees.
  Tokens ScoredIn(int64_t chunk) const {
    const int64_t base = chunk * kChunkBlocks;
    return {(std::max(first_block_, base) - base) * kTokens,
            (std::min(last_block_ + 1, base + kChunkBlocks) - base) * kTokens};
  }
  const std::byte* BlockOf(int64_t chunk, int64_t token) const {
    return a_.arena + a_.blocks[chunk * kChunkBlocks + token / kTokens] * a_.page_bytes;
  }
  const std::byte* KeysAt(int64_t head, int64_t chunk, int64_t token) const {
    return BlockOf(chunk, token) + a_.k_offset_bytes + head * a_.head_bytes;
  }
  const std::byte* ValuesAt(int64_t head, int64_t chunk, int64_t token) const {
    return BlockOf(chunk, token) + a_.v_offset_bytes + head * a_.head_bytes;
  }

  // own_q_ [queries, q_width]: f32, or bf16 for the processor's products; zeros behind head_dim.
  void TakeQueries(int64_t head) {
    for (int64_t i = 0; i < queries_; ++i) {
      const T* from = q_ + i / a_.group * a_.q_stride + (head * a_.group + i % a_.group) * a_.head_dim;
      if (products_) {
        T* to = reinterpret_cast<T*>(own_q_) + i * q_width_;
        std::fill(std::copy_n(from, a_.head_dim, to), to + q_width_, T{0});
      } else {
        float* to = own_q_ + i * q_width_;
        for (int64_t e = 0; e < a_.head_dim; ++e) to[e] = Widen(from[e]);
        std::fill(to + a_.head_dim, to + q_width_, 0.0f);
      }
    }
  }

  // Meanwhile the chunk's values are fetched.
  void Score(int64_t head, int64_t chunk) {
    const Tokens scored = ScoredIn(chunk);
    for (int64_t t = scored.begin; t < scored.end; t += kTokens) {
      FetchAhead(ValuesAt(head, chunk, t), a_.head_bytes);
      const T* const keys = reinterpret_cast<const T*>(KeysAt(head, chunk, t));
      ScoreBlock(a_.keys_in_panels ? keys : PutInPanel(keys), scores_ + t);
    }
    if (a_.softcap <= 0) return;
    for (int64_t i = 0; i < queries_; ++i) {
      CapScores(scores_ + i * kChunkTokens + scored.begin, scored.end - scored.begin, a_.scale, a_.softcap);
    }
  }
  // keys [16, head_dim] -> [words, 16] words
  const T* PutInPanel(const T* keys) const {
    constexpr int64_t kInWord = kKeyWordBytes / static_cast<int64_t>(sizeof(T));
    T* const panel = reinterpret_cast<T*>(ThreadScratch(Scratch::kColumns, words_ * kTokens));
    std::fill_n(panel, words_ * kTokens * kInWord, T{0});
    for (int64_t t = 0; t < kTokens; ++t, keys += a_.head_dim) {
      for (int64_t e = 0; e < a_.head_dim; ++e) panel[(e / kInWord * kTokens + t) * kInWord + e % kInWord] = keys[e];
    }
    return panel;
  }
  void ScoreBlock(const T* keys, float* scores) const {
    if constexpr (sizeof(T) == sizeof(uint16_t)) {
      if (products_) {
        return ScoreBf16Products({reinterpret_cast<const T*>(own_q_), queries_, words_, keys, kChunkTokens}, scores);
      }
    }
    int64_t i = 0;
    const auto score = [&]<int Q>() {
      ScoreQueries<Q>(own_q_ + i * q_width_, q_width_, keys, words_, scores + i * kChunkTokens);
      i += Q;
    };
    while (queries_ - i >= 3) score.template operator()<3>();
    while (i < queries_) score.template operator()<1>();
  }

  void Weigh(int64_t chunk) {
    const float scale = a_.softcap > 0 ? 1.0f : a_.scale;  // capped scores have been scaled
    for (int64_t i = 0; i < queries_; ++i) {
      const Tokens visible = VisibleTo(a_, i / a_.group, chunk);
      if (visible.begin >= visible.end) continue;
      factors_[i] = HWY_NAMESPACE::Weigh(scores_ + i * kChunkTokens, ScoredIn(chunk), visible, scale, max_[i], sum_[i]);
    }
  }

  // Meanwhile the keys that come next are fetched.
  void Sum(int64_t head, int64_t chunk) {
    const bool same_head = chunk < LastChunk();
    const int64_t next_head = same_head ? head : head + 1, next_chunk = same_head ? chunk + 1 : FirstChunk();
    if (next_head < a_.kv_heads) {
      const Tokens next = ScoredIn(next_chunk);
      for (int64_t t = next.begin; t < next.end; t += kTokens) {
        FetchAhead(KeysAt(next_head, next_chunk, t), a_.head_bytes);
      }
    }
    const Tokens scored = ScoredIn(chunk);
    if (packed_values_ == nullptr) {
      ChunkValues<T> values = {.of_block = {}, .stride = a_.head_dim};
      for (int64_t t = scored.begin; t < scored.end; t += kTokens) {
        values.of_block[t / kTokens] = reinterpret_cast<const T*>(ValuesAt(head, chunk, t));
      }
      return SumOver(chunk, values);
    }
    ChunkValues<float> values = {.of_block = {}, .stride = width_};
    const int64_t end = VisibleTo(a_, a_.rows - 1, chunk).end;  // what lies behind is of nobody
    for (int64_t t = scored.begin; t < end; t += kTokens) {
      float* const packed = packed_values_ + t * width_;
      PackRowsT(reinterpret_cast<const T*>(ValuesAt(head, chunk, t)), a_.head_dim, std::min(kTokens, end - t),
                a_.head_dim, width_, packed, width_);
      values.of_block[t / kTokens] = packed;
    }
    SumOver(chunk, values);
  }
  // Queries of one row see the same tokens; so do those of all rows where the chunk is behind them.
  template <typename V>
  void SumOver(int64_t chunk, const ChunkValues<V>& values) {
    const Tokens first = VisibleTo(a_, 0, chunk), last = VisibleTo(a_, a_.rows - 1, chunk);
    const bool all_alike = first.begin == last.begin && first.end == last.end;
    const int64_t together = all_alike ? queries_ : a_.group;
    for (int64_t i = 0; i < queries_; i += together) {
      const Tokens visible = VisibleTo(a_, i / a_.group, chunk);
      if (visible.begin < visible.end) SumQueries(i, i + together, visible, values);
    }
  }
  template <typename V>
  void SumQueries(int64_t i, int64_t end, Tokens visible, const ChunkValues<V>& values) {
    const auto sum = [&]<int Q>() {
      AccumulateWidth<Q>(scores_ + i * kChunkTokens, factors_ + i, values, width_, visible, acc_ + i * width_);
      i += Q;
    };
    while (end - i >= 3 && end - i != 4) sum.template operator()<3>();
    while (end - i >= 2) sum.template operator()<2>();
    while (i < end) sum.template operator()<1>();
  }

  void PutResults(int64_t head) const {
    const DF d;
    for (int64_t i = 0; i < queries_; ++i) {
      const VF inverse = hn::Set(d, 1.0f / sum_[i]);
      T* out = y_ + i / a_.group * a_.y_stride + (head * a_.group + i % a_.group) * a_.head_dim;
      for (int64_t c = 0; c < a_.head_dim; c += kPair) {
        const VF lower = hn::Mul(hn::LoadU(d, acc_ + i * width_ + c), inverse);
        const VF upper = hn::Mul(hn::LoadU(d, acc_ + i * width_ + c + kLanes), inverse);
        StorePart(lower, upper, out + c, a_.head_dim - c);
      }
    }
  }

  const AttendArgs& a_;
  const T* const q_;
  T* const y_;
  const int64_t queries_;
  const int64_t words_;    // of a key
  const int64_t q_width_;  // elements of that many words
  const int64_t width_;    // of sums: whole pairs of vectors
  const bool products_;
  const int64_t first_block_;
  const int64_t last_block_;
  float* own_q_;                    // [queries, q_width]
  float* acc_;                      // [queries, width]
  float* scores_;                   // [queries, kChunkTokens]
  float* max_;                      // [queries]
  float* sum_;                      // [queries]
  float* factors_;                  // [queries]
  float* packed_values_ = nullptr;  // [kChunkTokens, width] where rows of values are not whole vectors
};

void AttendF32(const AttendArgs& a, const float* q, float* y) { Attention<float>(a, q, y).Run(); }
void AttendBf16(const AttendArgs& a, const uint16_t* q, uint16_t* y) { Attention<uint16_t>(a, q, y).Run(); }

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
