#include "tests/adapters/equal_experts.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "adapters/kinds/moe_names.h"

namespace lorad {
namespace {

// `count` times a matrix [rows, columns], below each other or side by side.
HostTensor Repeated(const HostTensor& matrix, int64_t count, bool side_by_side) {
  const int64_t rows = matrix.shape[0], row_bytes = matrix.shape[1] * SizeBytes(matrix.dtype);
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(count * rows * row_bytes));
  for (int64_t i = 0; i < count * rows; ++i) {
    const int64_t row = side_by_side ? i / count : i % rows;
    std::memcpy(bytes->data() + i * row_bytes, matrix.data() + row * row_bytes, static_cast<size_t>(row_bytes));
  }
  std::vector<int64_t> shape = matrix.shape;
  shape[side_by_side ? 1 : 0] *= count;
  return {.dtype = matrix.dtype, .shape = std::move(shape), .bytes = std::move(bytes)};
}

// [experts, hidden] f32, logits of about 1
HostTensor Router(int32_t layer, int64_t experts, int64_t hidden) {
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(experts * hidden) * sizeof(float));
  for (int64_t i = 0; i < experts * hidden; ++i) {
    const double weight = std::sin(1.7 * static_cast<double>(i * i) + layer) / std::sqrt(static_cast<double>(hidden));
    const auto stored = static_cast<float>(weight);
    std::memcpy(bytes->data() + static_cast<size_t>(i) * sizeof(float), &stored, sizeof(float));
  }
  return {.dtype = DType::kF32, .shape = {experts, hidden}, .bytes = std::move(bytes)};
}

}  // namespace

AdapterImage EqualExperts(AdapterImage lora, int32_t experts, const BaseShape& base) {
  for (ImageSlot& slot : lora.slots) {
    if (!IsOfFfn(slot.site)) continue;
    slot.experts = experts;
    slot.a = Repeated(slot.a, experts, /*side_by_side=*/false);
    slot.b = Repeated(slot.b, experts, /*side_by_side=*/true);
  }
  for (int32_t layer = 0; layer < base.num_layers; ++layer) {
    ImageSlot ffn;
    ffn.site = Site::kFfn;
    ffn.layer = layer;
    ffn.experts = experts;
    ffn.router = Router(layer, experts, base.hidden_size);
    lora.slots.push_back(std::move(ffn));
  }
  std::sort(lora.slots.begin(), lora.slots.end(), [](const ImageSlot& x, const ImageSlot& y) {
    return std::pair(x.site, x.layer) < std::pair(y.site, y.layer);
  });
  lora.kind = "mixlora";
  lora.routing = RoutingRule{.choice = RoutingRule::Choice::kTopK, .top_k = 2, .renormalise = true};
  return lora;
}

}  // namespace lorad
