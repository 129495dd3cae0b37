#pragma once

#include <cstdint>

// Torch-free, read by kernels.
namespace lorad {

// A row that an adapter's router deals to experts of the FFN, the likeliest few.
struct RoutedRow {
  int32_t row = -1;  // negative: an entry that nobody uses
  int32_t slot = 0;
  int32_t top_k = 0;
  int32_t renormalise = 0;  // weights of the chosen sum to one
};

}  // namespace lorad
