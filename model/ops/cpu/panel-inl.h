// The step that products with panels, and scores of keys, are made of; included once per instruction set.
#if defined(LORAD_MODEL_OPS_CPU_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LORAD_MODEL_OPS_CPU_PANEL_INL_H_
#undef LORAD_MODEL_OPS_CPU_PANEL_INL_H_
#else
#define LORAD_MODEL_OPS_CPU_PANEL_INL_H_
#endif

#include "model/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lorad::cpu {
namespace HWY_NAMESPACE {

inline constexpr int64_t kPanelLanes = 16;  // columns of weights, or tokens of a KV block
inline constexpr int kPanelVectors = static_cast<int>(kPanelLanes / kLanes);
static_assert(kPanelLanes % kLanes == 0);

// acc[r][v] += word `word` of row r times that of the panel's columns in vector v. Of bf16 a word is two elements.
template <int R>
HWY_INLINE void AddWord(const float* x, int64_t x_stride, const float* panel, int64_t word,
                        VF (&acc)[R][kPanelVectors]) {
  const DF d;
  for (int v = 0; v < kPanelVectors; ++v) {
    const VF w = hn::LoadU(d, panel + word * kPanelLanes + v * kLanes);
    for (int r = 0; r < R; ++r) acc[r][v] = hn::MulAdd(hn::Set(d, x[r * x_stride + word]), w, acc[r][v]);
  }
}
template <int R>
HWY_INLINE void AddWord(const float* x, int64_t x_stride, const uint16_t* panel, int64_t word,
                        VF (&acc)[R][kPanelVectors]) {
  const DF d;
  for (int v = 0; v < kPanelVectors; ++v) {
    VF w0, w1;
    Load2(panel + 2 * (word * kPanelLanes + v * kLanes), w0, w1);
    for (int r = 0; r < R; ++r) {
      const float* const elements = x + r * x_stride + 2 * word;
      acc[r][v] = hn::MulAdd(hn::Set(d, elements[0]), w0, acc[r][v]);
      acc[r][v] = hn::MulAdd(hn::Set(d, elements[1]), w1, acc[r][v]);
    }
  }
}

// All words of R rows against one panel.
template <int R, typename W>
HWY_INLINE void PanelSums(const float* x, int64_t x_stride, const W* panel, int64_t words,
                          VF (&acc)[R][kPanelVectors]) {
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < kPanelVectors; ++v) acc[r][v] = hn::Zero(DF());
  for (int64_t word = 0; word < words; ++word) AddWord<R>(x, x_stride, panel, word, acc);
}

}  // namespace HWY_NAMESPACE
}  // namespace lorad::cpu
HWY_AFTER_NAMESPACE();

#endif  // LORAD_MODEL_OPS_CPU_PANEL_INL_H_
