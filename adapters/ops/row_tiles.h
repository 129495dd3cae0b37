#pragma once

#include <cstdint>

#include "adapters/slot_table.h"

// What the CUDA forms of the adapters' operators read of a step, beside the slots. Torch-free, read by kernels.
namespace lorad {

inline constexpr int kRowsPerTile = 4;
inline constexpr int kRowsPerLongTile = 64;  // where tensor cores multiply

// Rows of one segment, kRowsPerTile or kRowsPerLongTile at most; none: an entry that nobody uses. h [rows, ranks] f32
// holds the ranks of each (term, part) in turn.
struct RowTile {
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t first_term = 0;
  int32_t end_term = 0;
  int64_t h_offset = 0;
  int64_t ranks = 0;
};

// Rows of one segment, and a slot that replaces something in them. Several of the same rows are several launches.
struct ReplacedTile {
  int32_t first_row = 0;
  int32_t rows = 0;  // kRowsPerTile at most
  SlotWeights weights = {};
};

}  // namespace lorad
