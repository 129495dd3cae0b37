#include <algorithm>
#include <cstring>
#include <vector>

#include "model/ops/cpu/bf16.h"
#include "model/ops/cpu/quantized_panels.h"

// How panels are made and read back, element by element.
namespace lorad::cpu {
namespace {

// Where element k of a column lies in the words of its group.
void PutElement(Quantization quantization, int64_t k, int64_t column, int8_t code, std::byte* words) {
  const int64_t word = k / 2;
  if (quantization != Quantization::kInt4) {
    words[(word * kPanelColumns + column) * 2 + k % 2] = static_cast<std::byte>(code);
    return;
  }
  const int64_t nibble = word % kQuadWords;
  std::byte* const at = words + ((word / kQuadWords * kPanelColumns + column) * 2 + k % 2) * 2 + nibble / 2;
  *at |= static_cast<std::byte>((code + 8) << nibble % 2 * 4);
}
int8_t ElementAt(Quantization quantization, int64_t k, int64_t column, const std::byte* words) {
  const int64_t word = k / 2;
  if (quantization != Quantization::kInt4) {
    return static_cast<int8_t>(words[(word * kPanelColumns + column) * 2 + k % 2]);
  }
  const int64_t nibble = word % kQuadWords;
  const std::byte at = words[((word / kQuadWords * kPanelColumns + column) * 2 + k % 2) * 2 + nibble / 2];
  return static_cast<int8_t>(static_cast<int>(at >> nibble % 2 * 4 & std::byte{15}) - 8);
}

// Those of a group, of which `at` has the 16 columns'.
void PutFactors(Quantization quantization, int64_t column, const GroupFactors& factors, std::byte* at) {
  if (quantization != Quantization::kInt4) {
    std::memcpy(at + column * 4, &factors.scale, 4);
    return;
  }
  uint16_t both[2];  // they are bf16 already
  Put(factors.scale, &both[0]);
  Put(factors.zero, &both[1]);
  std::memcpy(at + column * 4, both, 4);
}
GroupFactors FactorsAt(Quantization quantization, int64_t column, const std::byte* at) {
  GroupFactors factors;
  if (quantization != Quantization::kInt4) {
    std::memcpy(&factors.scale, at + column * 4, 4);
    return factors;
  }
  uint16_t both[2];
  std::memcpy(both, at + column * 4, 4);
  return {.scale = Widen(both[0]), .zero = Widen(both[1])};
}

}  // namespace

void QuantizePanel(Quantization quantization, const float* w, int64_t columns, int64_t in, std::byte* panel) {
  std::memset(panel, 0, static_cast<size_t>(QuantizedPanelBytes(quantization, in)));
  const int64_t inputs = InputsOfFactors(quantization, in);
  std::vector<int8_t> codes(static_cast<size_t>(inputs));
  for (int64_t c = 0; c < columns; ++c, w += in) {
    for (int64_t first = 0; first < in; first += inputs) {
      const int64_t n = std::min(inputs, in - first);
      const GroupFactors factors = QuantizeGroup(quantization, w + first, n, codes.data());
      PutFactors(quantization, c, factors, panel + first / kQuantizedGroup * FactorStride(quantization));
      for (int64_t i = 0; i < n; ++i) {
        const int64_t k = first + i;
        std::byte* const words = panel + kFactorBytes + k / kQuantizedGroup * BlockBytes(quantization);
        PutElement(quantization, k % kQuantizedGroup, c, codes[i], words);
      }
    }
  }
}

void DequantizePanelColumn(Quantization quantization, const std::byte* panel, int64_t column, int64_t in, float* w) {
  for (int64_t k = 0; k < in; k += kQuantizedGroup) {
    const int64_t g = k / kQuantizedGroup;
    const GroupFactors factors = FactorsAt(quantization, column, panel + g * FactorStride(quantization));
    const std::byte* const words = panel + kFactorBytes + g * BlockBytes(quantization);
    for (int64_t i = 0; i < std::min(kQuantizedGroup, in - k); ++i) {
      const float q = NumberOf(quantization, ElementAt(quantization, i, column, words));
      w[k + i] = factors.scale * q + factors.zero;
    }
  }
}

}  // namespace lorad::cpu
