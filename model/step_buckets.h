#pragma once

#include <cstdint>

namespace lorad {

// The sizes that captured steps come in: a step is padded to the next one, so that a few graphs serve all. Torch-free.

inline constexpr int64_t kMostGraphRows = 512;

// Rows of the smallest captured step that has room for so many: 1, 2, 4, 8, then by 8 to 64, then by 32. 0: none has.
int64_t RowsBucket(int64_t rows);
// Blocks of a sequence, likewise: 4, 16, 64, 256, 512, 1024, …; the kernels read no more of a row's table than the row
// has.
int64_t BlocksBucket(int64_t blocks);

}  // namespace lorad
