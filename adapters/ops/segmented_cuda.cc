#include "adapters/ops/cuda/segmented_kernels.h"
#include "adapters/ops/cuda/segmented_plan.h"
#include "adapters/ops/cuda_ops.h"
#include "model/ops/check_args.h"
#include "model/ops/cuda/tensor_rows.h"
#include "model/ops/cuda/upload.h"
#include "model/ops/cuda_ops.h"

namespace lorad::cuda {
namespace {

// A plan on the device, with its scratch.
class Step final {
 public:
  Step(absl::Span<const SegmentedPart> parts, int32_t num_slots, const RowSegments& rows, bool with_bias,
       const at::Tensor& beside)
      : plan_(PlanSegments(parts, num_slots, rows, with_bias)) {
    if (plan_.tiles.empty()) return;
    const auto f32 = at::TensorOptions().dtype(at::kFloat).device(beside.device());
    h_ = at::empty({plan_.h_floats}, f32);
    logits_ = at::empty({std::ssize(plan_.tiles) * kRowsPerTile * plan_.sizes.experts}, f32);
    const int64_t slots = upload_.Add(plan_.slots), tiles = upload_.Add(plan_.tiles), terms = upload_.Add(plan_.terms);
    input_rows_ = rows.input_rows.empty() ? -1 : upload_.Add(rows.input_rows);
    upload_.Send(beside);
    work_ = {.tiles = upload_.At<RowTile>(tiles),
             .num_tiles = std::ssize(plan_.tiles),
             .parts = {},
             .num_parts = static_cast<int32_t>(plan_.parts.size()),
             .terms = upload_.At<SlotTerm>(terms),
             .with_bias = with_bias,
             .h = h_.mutable_data_ptr<float>()};
    for (size_t p = 0; p < plan_.parts.size(); ++p) {
      work_.parts[p] = plan_.parts[p];
      work_.parts[p].slots = upload_.At<SlotWeights>(slots) + static_cast<int64_t>(p) * plan_.used_slots;
    }
  }
  bool empty() const { return plan_.tiles.empty(); }
  const SegmentedWork& work() const { return work_; }
  const SegmentedSizes& sizes() const { return plan_.sizes; }
  const int32_t* input_rows() const { return input_rows_ < 0 ? nullptr : upload_.At<int32_t>(input_rows_); }
  float* logits() { return logits_.mutable_data_ptr<float>(); }

 private:
  SegmentedPlan plan_;
  Upload upload_;
  at::Tensor h_, logits_;
  int64_t input_rows_ = -1;
  SegmentedWork work_ = {};
};

template <typename T>
cudaError_t Add(const SegmentedGemmArgs& args, Step& step) {
  const cudaStream_t stream = StreamOf(args.y);
  const ShrinkInput<T> input = {RowsOf<T>(args.x), args.x.size(1), step.input_rows()};
  cudaError_t error = cudaSuccess;
  if (step.sizes().rank_blocks > 0) error = LaunchShrink(step.work(), step.sizes(), input, stream);
  if (error == cudaSuccess && step.sizes().experts > 0) {
    error = LaunchWeighExperts(step.work(), step.sizes(), input, step.logits(), stream);
  }
  if (error != cudaSuccess) return error;
  return LaunchExpand(step.work(), step.sizes(), MutableRowsOf<T>(args.y), stream);
}

template <typename T>
cudaError_t Add(const SegmentedEmbeddingArgs& args, Step& step) {
  const cudaStream_t stream = StreamOf(args.y);
  const T* const type = nullptr;
  const cudaError_t error =
      LaunchGatherRanks(step.work(), args.ids.const_data_ptr<int32_t>(), args.vocab_size, type, stream);
  if (error != cudaSuccess) return error;
  return LaunchExpand(step.work(), step.sizes(), MutableRowsOf<T>(args.y), stream);
}

template <typename Args>
absl::Status AddAs(std::string_view op, const Args& args, Step& step) {
  if (step.empty() || step.sizes().column_blocks == 0) return absl::OkStatus();
  return StatusOf(op, ForTypeOf(args.y, [&](auto of_rows) { return Add<decltype(of_rows)>(args, step); }));
}

}  // namespace

absl::Status SegmentedGemm(const SegmentedGemmArgs& args) {
  std::vector<SegmentedPart> parts;
  for (const SegmentedGemmPart& part : args.parts) parts.push_back({part.slots, part.first_column, part.columns});
  if (std::ssize(parts) > kMostParts) {
    return ArgCheck("SegmentedGemm").Error("parts", absl::StrCat(parts.size()), absl::StrCat(kMostParts, " on CUDA"));
  }
  Step step(parts, args.num_slots, args.rows, /*with_bias=*/true, args.y);
  return AddAs("SegmentedGemm", args, step);
}

absl::Status SegmentedEmbedding(const SegmentedEmbeddingArgs& args) {
  const SegmentedPart part = {args.slots, 0, args.y.size(1)};
  Step step({&part, 1}, args.num_slots, args.rows, /*with_bias=*/false, args.y);
  return AddAs("SegmentedEmbedding", args, step);
}

}  // namespace lorad::cuda
