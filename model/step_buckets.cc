#include "model/step_buckets.h"

#include <bit>

#include "model/base/round_up.h"

namespace lorad {

int64_t RowsBucket(int64_t rows) {
  if (rows < 1 || rows > kMostGraphRows) return 0;
  if (rows <= 8) return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
  return RoundUp(rows, rows <= 64 ? 8 : 32);
}

int64_t BlocksBucket(int64_t blocks) {
  constexpr int64_t kLargeTable = 256;  // of long contexts: what is padded goes up each step
  int64_t bucket = 4;
  while (bucket < blocks) bucket *= bucket < kLargeTable ? 4 : 2;
  return bucket;
}

}  // namespace lorad
