#include "adapters/kinds/tensor_writer.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "adapters/float_convert.h"

namespace lorad {

std::vector<TensorToWrite> ToWrite(std::vector<NamedTensor>* tensors) {
  std::sort(tensors->begin(), tensors->end(), [](const auto& x, const auto& y) { return x.name < y.name; });
  std::vector<TensorToWrite> written;
  for (const auto& [name, tensor] : *tensors) {
    const auto bytes = static_cast<size_t>(tensor.elements() * SizeBytes(tensor.dtype));
    written.push_back({.name = name, .dtype = tensor.dtype, .shape = tensor.shape, .bytes = {tensor.data(), bytes}});
  }
  return written;
}

HostTensor RowsOf(const HostTensor& matrix, int64_t first, int64_t count) {
  HostTensor rows = matrix;
  rows.offset_bytes += first * matrix.shape[1] * SizeBytes(matrix.dtype);
  rows.shape[0] = count;
  return rows;
}

HostTensor ColumnsOf(const HostTensor& matrix, int64_t first, int64_t count) {
  const int64_t rows = matrix.shape[0], size = SizeBytes(matrix.dtype);
  const auto row_bytes = static_cast<size_t>(count * size);
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(rows) * row_bytes);
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(bytes->data() + static_cast<size_t>(row) * row_bytes,
                matrix.data() + (row * matrix.shape[1] + first) * size, row_bytes);
  }
  return {.dtype = matrix.dtype, .shape = {rows, count}, .bytes = std::move(bytes)};
}

HostTensor CopyOf(const BaseTable& table, DType dtype) {
  const int64_t elements = table.rows * table.columns;
  std::vector<float> values(static_cast<size_t>(elements));
  ToF32(table.dtype, table.data, elements, values.data());
  auto bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(elements * SizeBytes(dtype)));
  FromF32(values.data(), elements, dtype, bytes->data());
  const std::vector<int64_t> shape =
      table.columns == 1 ? std::vector<int64_t>{table.rows} : std::vector<int64_t>{table.rows, table.columns};
  return {.dtype = dtype, .shape = shape, .bytes = std::move(bytes)};
}

}  // namespace lorad
