#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "absl/status/status.h"
#include "model/base/status_macros.h"
#include "model/ops/check_args.h"

namespace lorad {

// What a combining of experts is given of the shared one: nothing, or its rows and the logits of its gate, like y's.
inline absl::Status CheckSharedRows(const ArgCheck& check, const at::Tensor& y, int64_t rows, const at::Tensor& shared,
                                    const at::Tensor& shared_logits) {
  if (!shared.defined()) return absl::OkStatus();
  RETURN_IF_ERROR(check.Tensor("shared", shared, y.scalar_type(), {rows, y.size(1)}));
  RETURN_IF_ERROR(check.Tensor("shared_logits", shared_logits, y.scalar_type(), {rows, 1}));
  RETURN_IF_ERROR(check.SameDevice(y, "shared", shared));
  return check.SameDevice(y, "shared_logits", shared_logits);
}

}  // namespace lorad
