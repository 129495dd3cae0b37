#include "model/ops/autograd/attention_parts.h"

namespace lorad {

AttentionTile TileAt(const AttentionShape& shape, int64_t first, int64_t tokens) {
  const int64_t rows = std::min(kTileRows, tokens - first);
  const int64_t seen = shape.window_tokens == 0 ? 0 : std::max<int64_t>(0, first - shape.window_tokens + 1);
  return {first, rows, seen / cpu::kPanelColumns * cpu::kPanelColumns, first + rows};
}

std::vector<std::vector<AttentionPart>> WavesOf(const AttentionShape& shape, int64_t products) {
  std::vector<std::vector<AttentionPart>> waves;
  for (int64_t sequence = 0; sequence < shape.sequences(); ++sequence) {
    const int64_t tokens = shape.tokens_of(sequence);
    const auto products_at = [&](int64_t first) {
      const AttentionTile tile = TileAt(shape, first, tokens);
      return products * tile.rows * tile.keys() * shape.dim;
    };
    size_t wave = 0;
    for (int64_t first = 0, end = 0; first < tokens; first = end, ++wave) {
      int64_t of_part = 0;
      do {
        of_part += products_at(end);
        end = std::min(tokens, end + kTileRows);
      } while (end < tokens && (of_part + products_at(end)) * shape.heads <= kPieceProducts);
      if (waves.size() == wave) waves.emplace_back();
      for (int64_t head = 0; head < shape.heads; ++head) waves[wave].push_back({sequence, head, first, end, of_part});
    }
  }
  return waves;
}

}  // namespace lorad
