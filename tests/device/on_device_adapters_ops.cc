// As on_device_model_ops.cc, of the adapters' operators.
#include <deque>
#include <vector>

#include "adapters/ops/cpu_ops.h"
#include "tests/device/device_copies.h"

namespace lorad::cpu {

absl::Status ReplaceEmbeddingRows(const ReplaceEmbeddingRowsArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  const std::vector<SlotWeights> slots = on.Of(args.slots, args.num_slots, /*in=*/0, /*out=*/0, y.element_size());
  return on.Back(lorad::ReplaceEmbeddingRows({on.Of(args.ids), y, slots.data(), args.num_slots, args.rows}));
}

absl::Status ReplaceHeadRows(const ReplaceHeadRowsArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  const std::vector<SlotWeights> slots = on.Of(args.slots, args.num_slots, /*in=*/0, /*out=*/0, y.element_size());
  return on.Back(lorad::ReplaceHeadRows({on.Of(args.x), y, slots.data(), args.num_slots, args.rows}));
}

absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  const std::vector<SlotWeights> slots =
      on.Of(args.slots, args.num_slots, args.vocab_size, y.size(1), y.element_size());
  return on.Back(
      lorad::SegmentedEmbedding({on.Of(args.ids), y, slots.data(), args.num_slots, args.vocab_size, args.rows}));
}

absl::Status SegmentedGemm(const SegmentedGemmArgs& args) {
  DeviceCopies on;
  at::Tensor y = on.Of(args.y);
  std::deque<std::vector<SlotWeights>> slots;
  std::vector<SegmentedGemmPart> parts;
  for (const SegmentedGemmPart& part : args.parts) {
    slots.push_back(on.Of(part.slots, args.num_slots, args.x.size(1), part.columns, y.element_size()));
    parts.push_back({slots.back().data(), part.first_column, part.columns});
  }
  return on.Back(lorad::SegmentedGemm({on.Of(args.x), y, parts, args.num_slots, args.rows}));
}

}  // namespace lorad::cpu
