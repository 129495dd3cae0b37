#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "adapters/base_tables.h"
#include "adapters/image.h"
#include "model/safetensors_writer.h"

namespace lorad {

// What the writers of all kinds do with an image's tensors.

struct NamedTensor {
  std::string name;
  HostTensor tensor;
};

// Sorts them by name, so that the same tensors give the same file. The result points into `tensors`.
std::vector<TensorToWrite> ToWrite(std::vector<NamedTensor>* tensors);

// Some rows of a matrix [rows, columns], without a copy; some columns, copied.
HostTensor RowsOf(const HostTensor& matrix, int64_t first, int64_t count);
HostTensor ColumnsOf(const HostTensor& matrix, int64_t first, int64_t count);

// The base's tensor in `dtype`: [rows, columns], or [rows] of one column.
HostTensor CopyOf(const BaseTable& table, DType dtype);

}  // namespace lorad
