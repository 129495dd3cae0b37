#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "adapters/ops/routed_row.h"
#include "adapters/ops/row_tiles.h"
#include "adapters/slot_table.h"
#include "model/row_segments.h"

// The tables of a step that captured launches read (adapters/graph_seam.h), of its segments. Torch-free.
namespace lorad {

// Whether the rows of a segment are meant.
using OfSegment = std::function<bool(size_t segment)>;

// Rows of segments with terms, in pieces of kRowsPerTile; `ranks` of h for each row.
std::vector<RowTile> TilesOf(const RowSegments& rows, int64_t ranks, const OfSegment& wanted);
// [padded_rows]: which tile each row is in; -1: none.
std::vector<int32_t> TileOfRow(const std::vector<RowTile>& tiles, int64_t padded_rows);

// What replaces rows of the table whose slots these are: one term of a segment at most replaces something.
std::vector<ReplacedTile> ReplacedTilesOf(const RowSegments& rows, const SlotWeights* slots);
// Most terms of a segment that replace something there.
int64_t MostReplacements(const RowSegments& rows, const SlotWeights* slots);

// The routed term of a segment, by routes(slot), or nullptr: one at most (adapters/apply_routing.h).
const SlotTerm* RoutedTerm(const RowSegments& rows, size_t segment, const std::function<bool(int32_t slot)>& routes);

}  // namespace lorad
