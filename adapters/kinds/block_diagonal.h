#pragma once

#include <cstdint>

#include "adapters/image.h"

namespace lorad {

// A block-diagonal matrix [rows, blocks * columns] from what is stored of it, [rows, columns]: its blocks, one below
// the other. `blocks` divides rows. Source: peft tuners/lora/variants.py, BlockDiagonalLinear.
HostTensor WithItsZeros(const HostTensor& stored, int64_t blocks);

}  // namespace lorad
