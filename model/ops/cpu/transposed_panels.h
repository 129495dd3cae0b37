#pragma once

#include <cstdint>

namespace lorad::cpu {

// Panels of W^T from panels of W [out, in] (panel_kernels.h), for the products of a backward: of `inputs` inputs from
// first_input, a multiple of kPanelColumns, on, and of the `outputs` outputs that begin with `panels`.
//
//   transposed [ceil(inputs / 16)][ceil(outputs / 2)][16] words of two bf16, zeros behind the last output; behind the
//   last input zeros or inputs that were not asked for
struct TransposeArgs {
  const uint16_t* panels;
  int64_t in;
  int64_t outputs;
  int64_t first_input;
  int64_t inputs;
};
void TransposePanels(const TransposeArgs& args, uint16_t* transposed);

}  // namespace lorad::cpu
