// As on_device_model_ops.cc: all that the files of the CPU's matmuls have.
#include <deque>
#include <vector>

#include "model/ops/cpu_ops.h"
#include "tests/device/device_copies.h"

namespace lorad::cpu {

bool HasOneDnnKernels() { return false; }
bool LinearGoesToOneDnn(at::ScalarType, int64_t) { return false; }

absl::Status Dequantize(const DequantizeArgs& args) {
  DeviceCopies on;
  at::Tensor w = on.Of(args.w);
  return on.Back(lorad::Dequantize({on.Of(args.weight), w}));
}

absl::Status Linear(const LinearArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  return on.Back(lorad::Linear({on.Of(args.x), on.Of(args.weight), y}));
}

absl::Status ExpertLinear(const ExpertLinearArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  std::deque<std::vector<LinearWeight>> weights;
  std::vector<ExpertLinearPart> parts;
  for (const ExpertLinearPart& part : args.parts) {
    std::vector<LinearWeight>& of_part = weights.emplace_back();
    for (const LinearWeight& weight : part.weights) of_part.push_back(on.Of(weight));
    parts.push_back({of_part, part.first_column});
  }
  return on.Back(lorad::ExpertLinear({on.Of(args.x), parts, args.starts, args.rows, y}));
}

}  // namespace lorad::cpu
