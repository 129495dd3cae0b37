#include "model/layers/weight_rows.h"

#include <utility>

#include "model/base/check.h"
#include "model/ops/cpu/panel_kernels.h"

namespace lorad {

WeightRows::WeightRows(LinearWeight weight, int64_t first_row) : weight_(std::move(weight)), first_row_(first_row) {
  LORAD_CHECK(!weight_.packed() || weight_.quantized());
}

at::Tensor WeightRows::Rows(int64_t first, int64_t count) const {
  const int64_t begin = first_row_ + first;
  if (!weight_.quantized()) return weight_.weight().narrow(0, begin, count);
  const int64_t before = begin % cpu::kPanelColumns;  // in the first panel
  return weight_.Outputs(begin - before, before + count).Dequantized(at::kFloat).narrow(0, before, count);
}

}  // namespace lorad
