#include "adapters/graph_tables.h"

#include <algorithm>

namespace lorad {

std::vector<RowTile> TilesOf(const RowSegments& rows, int64_t ranks, const OfSegment& wanted) {
  std::vector<RowTile> tiles;
  for (size_t g = 0; g + 1 < rows.starts.size(); ++g) {
    if (rows.term_starts[g] == rows.term_starts[g + 1] || !wanted(g)) continue;
    for (int32_t r = rows.starts[g]; r < rows.starts[g + 1]; r += kRowsPerTile) {
      const int32_t count = std::min<int32_t>(kRowsPerTile, rows.starts[g + 1] - r);
      tiles.push_back({r, count, rows.term_starts[g], rows.term_starts[g + 1], r * ranks, ranks});
    }
  }
  return tiles;
}

std::vector<int32_t> TileOfRow(const std::vector<RowTile>& tiles, int64_t padded_rows) {
  std::vector<int32_t> tile_of_row(static_cast<size_t>(padded_rows), -1);
  for (size_t i = 0; i < tiles.size(); ++i) {
    std::fill_n(tile_of_row.begin() + tiles[i].first_row, tiles[i].rows, static_cast<int32_t>(i));
  }
  return tile_of_row;
}

std::vector<ReplacedTile> ReplacedTilesOf(const RowSegments& rows, const SlotWeights* slots) {
  std::vector<ReplacedTile> tiles;
  for (size_t g = 0; g + 1 < rows.starts.size(); ++g) {
    for (int32_t t = rows.term_starts[g]; t < rows.term_starts[g + 1]; ++t) {
      const SlotWeights& w = slots[rows.terms[static_cast<size_t>(t)].slot];
      if (!w.replaces()) continue;
      for (int32_t r = rows.starts[g]; r < rows.starts[g + 1]; r += kRowsPerTile) {
        tiles.push_back({r, std::min<int32_t>(kRowsPerTile, rows.starts[g + 1] - r), w});
      }
    }
  }
  return tiles;
}

int64_t MostReplacements(const RowSegments& rows, const SlotWeights* slots) {
  int64_t most = 0;
  for (size_t g = 0; g + 1 < rows.starts.size(); ++g) {
    most = std::max<int64_t>(
        most, std::count_if(rows.terms.begin() + rows.term_starts[g], rows.terms.begin() + rows.term_starts[g + 1],
                            [&](const SlotTerm& term) { return slots[term.slot].replaces(); }));
  }
  return most;
}

const SlotTerm* RoutedTerm(const RowSegments& rows, size_t segment, const std::function<bool(int32_t slot)>& routes) {
  for (int32_t t = rows.term_starts[segment]; t < rows.term_starts[segment + 1]; ++t) {
    const SlotTerm& term = rows.terms[static_cast<size_t>(t)];
    if (routes(term.slot)) return &term;
  }
  return nullptr;
}

}  // namespace lorad
