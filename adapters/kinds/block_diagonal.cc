#include "adapters/kinds/block_diagonal.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "model/base/check.h"

namespace lorad {

HostTensor WithItsZeros(const HostTensor& stored, int64_t blocks) {
  const int64_t rows = stored.shape[0], columns = stored.shape[1];
  LORAD_CHECK_EQ(rows % blocks, 0);
  const auto row_bytes = static_cast<size_t>(columns * SizeBytes(stored.dtype));
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(rows * blocks) * row_bytes);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t block = row / (rows / blocks);
    std::memcpy(bytes->data() + static_cast<size_t>(row * blocks + block) * row_bytes,
                stored.data() + static_cast<size_t>(row) * row_bytes, row_bytes);
  }
  return {.dtype = stored.dtype, .shape = {rows, columns * blocks}, .bytes = std::move(bytes)};
}

}  // namespace lorad
