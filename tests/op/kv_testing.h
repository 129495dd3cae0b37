#pragma once

#include <cstring>
#include <vector>

#include "model/kv/kv_layout.h"
#include "model/ops/cpu/key_panels.h"
#include "tests/op/op_testing.h"

namespace lorad {

// How far attention may be from the loop beside its last rounding: more where a device rounds the weights, too.
inline double& AttentionTolerance() {
  static double absolute = 2e-5;
  return absolute;
}

// A KV cache of its own, filled with NaN: whoever reads what was not written shows it.
class TestCache final {
 public:
  TestCache(at::ScalarType dtype, int64_t layers, int64_t kv_heads, int64_t head_dim, int64_t blocks) : dtype_(dtype) {
    view_.layout = {.num_layers = layers, .num_kv_heads = kv_heads, .head_dim = head_dim, .dtype = OurDType(dtype)};
    // Blocks start every page and span several, so that a block number is not a multiple of the block's size.
    view_.page_bytes = 64;
    pages_per_block_ = (view_.layout.block_bytes() + view_.page_bytes - 1) / view_.page_bytes;
    bytes_.assign(static_cast<size_t>(blocks * pages_per_block_ * view_.page_bytes), std::byte{0xFF});
    view_.arena = bytes_.data();
  }
  const KvView& view() const { return view_; }
  int32_t Block(int64_t index) const { return static_cast<int32_t>(index * pages_per_block_); }
  float Get(int32_t block, int64_t layer, bool value, int64_t head, int64_t token, int64_t i) const {
    const std::byte* p = Address(block, layer, value, head, token, i);
    if (dtype_ == at::kFloat) return *reinterpret_cast<const float*>(p);
    const uint32_t bits = static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(p)) << 16;
    float v;
    std::memcpy(&v, &bits, 4);
    return v;
  }
  void Set(int32_t block, int64_t layer, bool value, int64_t head, int64_t token, int64_t i, float v) {
    std::byte* p = const_cast<std::byte*>(Address(block, layer, value, head, token, i));
    if (dtype_ == at::kFloat) {
      std::memcpy(p, &v, 4);
      return;
    }
    if (!std::isnan(v)) v = RoundToBf16(v);
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    const uint16_t half = static_cast<uint16_t>(bits >> 16);
    std::memcpy(p, &half, 2);
  }

 private:
  const std::byte* Address(int32_t block, int64_t layer, bool value, int64_t head, int64_t token, int64_t i) const {
    const KvLayout& l = view_.layout;
    const int64_t at = i * SizeBytes(l.dtype), word = at / cpu::kKeyWordBytes;
    const int64_t offset = !value && InPanels()
                               ? (word * kKvBlockTokens + token) * cpu::kKeyWordBytes + at % cpu::kKeyWordBytes
                               : token * l.head_dim * SizeBytes(l.dtype) + at;
    return view_.arena + block * view_.page_bytes + l.head_offset_bytes(layer, value, head) + offset;
  }
  // The CPU's order; other devices' operators keep [token][head_dim].
  bool InPanels() const {
#ifdef LORAD_TEST_KEYS_IN_PANELS
    return cpu::KeysInPanels(view_.layout);
#else
    return false;
#endif
  }

  at::ScalarType dtype_;
  KvView view_;
  int64_t pages_per_block_;
  std::vector<std::byte> bytes_;
};

}  // namespace lorad
